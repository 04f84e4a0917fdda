"""Join the scores of two disjoint halves of the calibration prompts."""

import dataclasses
from collections.abc import Iterator, Mapping

from torch import Tensor

from safetypin.artifacts import ArtifactMismatchError, WeightScores, model_hash

BY_TOKENS = ("wanda", "sparsegpt")  # squares that are means over tokens


class _PowerMean(Mapping[str, Tensor]):
    """(w1 a^k + w2 b^k)^(1/k), made when it is asked for."""

    def __init__(self, parts: tuple[WeightScores, WeightScores], weights: tuple[int, int]) -> None:
        self._first, self._second = (part.tensors for part in parts)
        total = sum(weights)
        self._share = weights[0] / total if total else 0.5
        self._power = 2 if parts[0].method in BY_TOKENS else 1

    def __getitem__(self, name: str) -> Tensor:
        first, second = self._first[name], self._second[name].to(self._first[name].device)
        if self._power == 1:
            return first.lerp(second, 1 - self._share)
        return first.square().lerp_(second.square(), 1 - self._share).sqrt_()

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)


def merge(first: WeightScores, second: WeightScores) -> WeightScores:
    """Return the scores that both halves of the prompts give together, with no new pass.

    SNIP is a mean over examples, so the halves are averaged by their examples; Wanda's |W| * rms
    is averaged as squares by their tokens, which is the rms over both. SparseGPT is joined in the
    same way, which leaves out what one half could explain for the other. Scores without prompts
    stay as they are.

    Raises:
        ArtifactMismatchError: The two are of other methods, models or weights.
    """
    for name in ("method", "model_id", "reference_id", "space"):
        mine, theirs = getattr(first, name), getattr(second, name)
        if model_hash(mine) != model_hash(theirs):  # of what is no model id, all of it
            raise ArtifactMismatchError(
                f"the scores differ in {name}: {mine} and {theirs}; "
                "score both halves in the same way"
            )
    if first.tensors.keys() != second.tensors.keys():
        raise ArtifactMismatchError("the scores are of other weights; use the same --targets")
    weights = (first.num_examples, second.num_examples)
    if first.method in BY_TOKENS:
        weights = (first.num_tokens, second.num_tokens)
    return dataclasses.replace(
        first,
        tensors=_PowerMean((first, second), weights),
        prompts_id=f"{first.prompts_id}+{second.prompts_id}",
        num_examples=first.num_examples + second.num_examples,
        num_tokens=first.num_tokens + second.num_tokens,
    )
