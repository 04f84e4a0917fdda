"""Adversarial suffixes found on the model: greedy coordinate gradient.

Zou et al. 2023 (arXiv:2307.15043), algorithm 2, with all requests from the start: the gradient of
the loss on an affirmative beginning names, for each place of the suffix, the tokens that promise
most; of some swaps drawn among them the best is taken. nanogcg does the same, but its releases ask
for transformers 4.47 or older.

Departures: a swap is taken only if it lowers the loss, and only if the suffix, written as text
behind the first request, is read as the same tokens again, so what is found survives its file.
"""

import dataclasses
import functools
import string
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import PromptSet, UserError
from safetypin.evaluate._attacks import AFFIRMATION
from safetypin.evaluate._sampling import draw_seed
from safetypin.hooks import at_rest
from safetypin.prompts import render, window

PRINTABLE = frozenset(string.digits + string.ascii_letters + string.punctuation + " ")
Ids = Int[Tensor, " tokens"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GcgSettings:
    """How a suffix is searched for.

    Attributes:
        num_tokens: Tokens of the suffix, which begins as so many exclamation marks.
        num_steps: Swaps to try.
        num_candidates: Swaps drawn at every step (512 in the paper).
        top_k: Tokens to draw from, at each place (256 in the paper).
        target: What the answer shall begin with.
        seed: Of the draws.
        batch_size: Candidates at once.
        plain: Use no chat template.
        system: System prompt.
    """

    num_tokens: int = 20
    num_steps: int = 100
    num_candidates: int = 64
    top_k: int = 256
    target: str = AFFIRMATION
    seed: int = 0
    batch_size: int = 16
    plain: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_tokens", "num_steps", "num_candidates", "top_k", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.target.strip():
            raise UserError(f"the target is empty; give a text such as {AFFIRMATION!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GcgStep:
    """Where a search stands after a step.

    Attributes:
        suffix: As text.
        loss: Mean cross-entropy of the target's tokens over the requests, in nats.
    """

    suffix: str
    loss: float


def find_suffix(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    settings: GcgSettings,
    *,
    done: Sequence[GcgStep] = (),
    on_step: Callable[[GcgStep], None] | None = None,
) -> list[GcgStep]:
    """Search for one suffix that makes the model begin its answers to all requests as wished.

    Args:
        model: A causal language model. It is left as it was.
        tokenizer: Its tokenizer, one that tells where each token stands in the text.
        prompts: The requests.
        settings: How to search.
        done: What an earlier search with the same settings found, which goes on from there.
        on_step: Called after every new step.

    Returns:
        The beginning, then the state after every step; the loss never rises.

    Raises:
        UserError: A slow tokenizer, a suffix that does not fit, or too little room in the window.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} does not tell where its tokens stand in a text, which GCG "
            "needs; use a model with a fast tokenizer, or suffixes from a file"
        )
    search = _Search(model, tokenizer, [prompt.text for prompt in prompts], settings)
    steps = list(done)
    with at_rest(model):
        for number in range(len(steps), settings.num_steps + 1):
            steps.append(search.step(steps[-1], number) if steps else search.beginning())
            if on_step is not None:
                on_step(steps[-1])
    return steps


class _Case(NamedTuple):
    """One request with a suffix, as tokens: the suffix stands between before and after."""

    before: Ids
    suffix: Ids
    after: Ids


@dataclasses.dataclass(frozen=True)
class _Search:
    """One model and its requests, which do not change from step to step."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    requests: Sequence[str]
    settings: GcgSettings

    def beginning(self) -> GcgStep:
        """Return the suffix that a search begins with."""
        suffix = " ".join("!" * self.settings.num_tokens)
        limit = window(self.model, self.tokenizer)
        for case in self._cases(suffix):
            size = sum(map(len, case)) + len(self._target)
            if size > limit:
                raise UserError(
                    f"a request with its suffix and the target has {size} tokens, the model's "
                    f"window {limit}; use shorter requests or fewer tokens for the suffix"
                )
        ids = self._cases(suffix)[0].suffix
        return GcgStep(suffix=suffix, loss=float(self._losses(suffix, ids[None])[0]))

    def step(self, now: GcgStep, number: int) -> GcgStep:
        """Return the best of some swaps, or what there was where none is better."""
        cases = self._cases(now.suffix)
        drawn = self._drawn(cases, number)
        texts = [self._text(ids) for ids in drawn]
        kept = [
            place
            for place, (text, ids) in enumerate(zip(texts, drawn, strict=True))
            if text != now.suffix and self._survives(cases, text, ids)
        ]
        if not kept:
            return now
        losses = self._losses(now.suffix, drawn[kept])
        best = int(losses.argmin())
        if not float(losses[best]) < now.loss:
            return now
        return GcgStep(suffix=texts[kept[best]], loss=float(losses[best]))

    @functools.cached_property
    def _target(self) -> Ids:
        ids = self.tokenizer(self.settings.target, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids)

    @functools.cached_property
    def _allowed(self) -> Int[Tensor, " allowed"]:
        """Tokens that a line of a text file can hold: printable ASCII, no special ones."""
        special = set(self.tokenizer.all_special_ids)
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        size = min(len(weight), len(self.tokenizer))  # embeddings may have rows to spare
        texts = self.tokenizer.batch_decode([[token] for token in range(size)])
        return torch.tensor(
            [
                token
                for token, text in enumerate(texts)
                if token not in special and text.strip() and PRINTABLE.issuperset(text)
            ]
        )

    def _cases(self, suffix: str) -> list[_Case]:
        return [self._split(request, suffix) for request in self.requests]

    def _split(self, request: str, suffix: str) -> _Case:
        """Return the tokens of a request with its suffix, read as a whole."""
        asked, how = f"{request} {suffix}", self.settings
        text = render(self.tokenizer, asked, plain=how.plain, system=how.system)
        start = text.rfind(asked) + len(request) + 1
        if asked not in text:
            raise UserError(
                f"the chat template changes the request {request[:60]!r}, so the place of a suffix "
                "in it is not known; use --plain"
            )
        read = self.tokenizer(text, add_special_tokens=how.plain, return_offsets_mapping=True)
        ids, end = torch.tensor(read["input_ids"]), start + len(suffix)
        inside = [i for i, (a, b) in enumerate(read["offset_mapping"]) if a < end and b > start]
        first, last = inside[0], inside[-1] + 1
        return _Case(ids[:first], ids[first:last], ids[last:])

    def _text(self, ids: Ids) -> str:
        text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return str(text).strip()

    def _survives(self, cases: Sequence[_Case], text: str, ids: Ids) -> bool:
        """Tell whether a swap, as text behind every request, is read as these tokens again."""
        if not text:
            return False
        expected = [torch.cat([case.before, ids, case.after]) for case in cases]
        found = [torch.cat([*case]) for case in self._cases(text)]
        return all(map(torch.equal, found, expected))

    def _drawn(self, cases: Sequence[_Case], number: int) -> Int[Tensor, "candidates tokens"]:
        """Return swaps of one token each, drawn among those that the gradient names."""
        gradient = sum(self._gradient(case) for case in cases)
        assert isinstance(gradient, Tensor)
        embed = self.model.get_input_embeddings()
        table = embed(self._allowed.to(self.model.device)).detach().float()
        count = min(self.settings.top_k, len(self._allowed))
        promising = (-gradient @ table.T).topk(count, dim=1).indices.cpu()
        seed = draw_seed(self.settings.seed, "gcg", number)
        generator = torch.Generator().manual_seed(seed)
        size = (self.settings.num_candidates,)
        places = torch.randint(len(cases[0].suffix), size, generator=generator)
        choices = torch.randint(count, size, generator=generator)
        drawn = cases[0].suffix.repeat(size[0], 1)
        drawn[torch.arange(size[0]), places] = self._allowed[promising[places, choices]]
        return drawn

    def _gradient(self, case: _Case) -> Float[Tensor, "tokens width"]:
        """Return the gradient of the loss with respect to the suffix's embeddings."""
        ids = torch.cat([*case, self._target]).to(self.model.device)[None]
        embedded = self.model.get_input_embeddings()(ids).detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(inputs_embeds=embedded).logits
            (gradient,) = torch.autograd.grad(self._loss(logits).sum(), embedded)
        assert isinstance(gradient, Tensor)
        start = len(case.before)
        return gradient[0, start : start + len(case.suffix)].float()

    @torch.no_grad()
    def _losses(
        self, suffix: str, candidates: Int[Tensor, "candidates tokens"]
    ) -> Float[Tensor, " candidates"]:
        """Return the loss of candidates as long as `suffix` in its place, mean over requests."""
        total = torch.zeros(len(candidates), dtype=torch.float64)
        for case in self._cases(suffix):
            for part in torch.arange(len(candidates)).split(self.settings.batch_size):
                ends = [
                    side.expand(len(part), -1)
                    for side in (case.before, torch.cat([case.after, self._target]))
                ]
                ids = torch.cat([ends[0], candidates[part], ends[1]], dim=1)
                logits = self.model(input_ids=ids.to(self.model.device)).logits
                total[part] += self._loss(logits).double().cpu()
        return total / len(self.requests)

    def _loss(self, logits: Float[Tensor, "batch seq vocabulary"]) -> Float[Tensor, " batch"]:
        """Return the mean cross-entropy of the target, which every row ends with."""
        size = len(self._target)
        wanted = self._target.to(logits.device).expand(len(logits), -1)
        predicted = logits[:, -size - 1 : -1].float().transpose(1, 2)
        losses: Tensor = cross_entropy(predicted, wanted, reduction="none").mean(dim=1)
        return losses
