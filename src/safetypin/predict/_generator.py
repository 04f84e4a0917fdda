"""A model behind its guard: unsafe requests are refused before a token is generated."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import Response, UserError, model_hash
from safetypin.evaluate import generate
from safetypin.models import model_id
from safetypin.predict._guard import Guard

REFUSAL = "I'm sorry, but I can't help with that."


class GuardedGenerator:
    """Answers requests like `generate`, but refuses what the guard calls unsafe.

    Attributes:
        model: The model that answers. The guard may read another one, such as a smaller one.
        tokenizer: What writes the requests for it.
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
        tokenizer: PreTrainedTokenizerBase | None = None,
        refusal: str = REFUSAL,
    ) -> None:
        """Put a guard before a model; the guard's own threshold where None is given.

        Args:
            model: The model that answers.
            guard: The guard.
            threshold: Probability from which on a request is refused.
            tokenizer: Of `model`; that of the guard where both are of one model.
            refusal: What is answered to such a request.

        Raises:
            UserError: The threshold is no probability, or the model is another one than the
                guard's and its tokenizer is not given.
        """
        self.threshold = guard.limit(threshold)
        self.tokenizer = _own(model, guard) if tokenizer is None else tokenizer
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
        answers = iter(generate(self.model, self.tokenizer, passed, **how) if passed else [])
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


def _own(model: PreTrainedModel, guard: Guard) -> PreTrainedTokenizerBase:
    """Return the guard's tokenizer, for a model that is the guard's own.

    Raises:
        UserError: It is another one. A model does not say which words its ids are: two of equal
            size, such as Llama 2 and Mistral, may share no word, and would answer nonsense.
    """
    own = guard.rule.model_id
    if model is guard.model or model_hash(identity := model_id(model)) == model_hash(own):
        return guard.tokenizer
    raise UserError(
        f"the model that answers is {identity}, the guard's is {own}; whether the guard's "
        "tokenizer is that of the answering model cannot be told from the model: pass its own as "
        "tokenizer="
    )
