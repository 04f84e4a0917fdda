"""A model behind its guard: unsafe requests are refused before a token is generated."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from safetypin.artifacts import Response, UserError
from safetypin.evaluate import generate
from safetypin.predict._guard import Guard

REFUSAL = "I'm sorry, but I can't help with that."


class GuardedGenerator:
    """Answers requests like `generate`, but refuses what the guard calls unsafe.

    Attributes:
        model: The model that answers. The guard may read another one, such as a smaller one.
        guard: The guard.
        threshold: Probability from which on a request is refused.
        refusal: What is answered then.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        guard: Guard,
        threshold: float | None = None,
        *,
        refusal: str = REFUSAL,
    ) -> None:
        """Put a guard before a model; the guard's own threshold where None is given.

        Raises:
            UserError: The threshold is no probability.
        """
        self.threshold = guard.threshold if threshold is None else threshold
        if not 0 <= self.threshold <= 1:
            raise UserError(f"the threshold must be in [0, 1], got {self.threshold:g}")
        self.model, self.guard, self.refusal = model, guard, refusal

    def generate(self, prompts: Sequence[str], **options: Any) -> list[Response]:  # noqa: ANN401
        """Return one response for each request, in their order.

        Args:
            prompts: The requests.
            options: Of `safetypin.generate`, such as `max_new_tokens`.
        """
        barred = self.guard.is_unsafe(prompts, self.threshold)
        passed = [prompt for prompt, unsafe in zip(prompts, barred, strict=True) if not unsafe]
        reading = self.guard.rule.reading
        how = {"plain": reading.plain, "system": reading.system} | options
        answers = iter(generate(self.model, self.guard.tokenizer, passed, **how) if passed else [])
        return [
            Response(prompt=prompt, text=self.refusal) if unsafe else next(answers)
            for prompt, unsafe in zip(prompts, barred, strict=True)
        ]

    def __call__(
        self,
        prompts: str | Sequence[str],
        **options: Any,  # noqa: ANN401
    ) -> list[dict[str, str]]:
        """Return `[{"generated_text": ...}]`, as a text-generation pipeline does."""
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        return [{"generated_text": answer.text} for answer in self.generate(asked, **options)]
