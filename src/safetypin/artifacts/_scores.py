"""Importance scores."""

import dataclasses
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from safetypin.artifacts._errors import ArtifactMismatchError


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightScores:
    """One importance score per weight; larger is more important, never negative.

    Attributes:
        tensors: float32 scores by parameter name, each shaped as its weight: `(d_out, d_in)`, or
            `(experts, d_out, d_in)` where a mixture of experts keeps its weights in one tensor.
            Any mapping will do, so that a score can be made when it is asked for.
        method: The scorer's name.
        model_id: `model_id` of the model that was scored.
        prompts_id: Fingerprint of the prompts it was scored on, "" where none matter.
        num_examples: Examples that were averaged over.
        num_tokens: Tokens that were counted in all.
        coverage: Share of the model's block weights that have a score, in [0, 1].
        space: "weights", or the fingerprint of the basis the coordinates are in.
        transposed: Names of the weights that are stored as (d_in, d_out), as GPT-2's are.
        reference_id: `model_id` of the model it was compared with, "" where there was none.
    """

    tensors: Mapping[str, Float[Tensor, "..."]]
    method: str
    model_id: str
    prompts_id: str = ""
    num_examples: int = 0
    num_tokens: int = 0
    coverage: float = 1.0
    space: str = "weights"
    transposed: frozenset[str] = frozenset()
    reference_id: str = ""


class WandaTensors(Mapping[str, Tensor]):
    """Scores `|W_ij| * rms(x_j)`, made anew from weight and rms each time one is asked for.

    The product of a (d_out, d_in) matrix and a vector would cost the model's size again in
    float32. The weights must not change before the last score is read, so a change is an error.

    `rms` is float32 and broadcasts against its weight: (d_in,) against (d_out, d_in), (d_in, 1)
    against (d_in, d_out), (experts, 1, d_in) against (experts, d_out, d_in).
    """

    def __init__(
        self, weights: Mapping[str, Tensor], rms: Mapping[str, Float[Tensor, "..."]]
    ) -> None:
        self._weights = weights
        self._rms = rms
        self._sums = {name: bit_sum(weight) for name, weight in weights.items()}

    def __getitem__(self, name: str) -> Float[Tensor, "..."]:
        weight = self._weights[name].detach()
        # torch's version counter would not do: it does not see `weight.data[...] = 0`
        if bit_sum(weight) != self._sums[name]:
            raise ArtifactMismatchError(
                f"{name} changed after it was scored; select before the model is pruned or trained"
            )
        return (weight * self._rms[name].to(weight.device)).abs_()

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def bit_sum(weight: Shaped[Tensor, "..."]) -> int:
    """Return a checksum: the sum of the values' bit patterns, modulo 2^32 for short ones."""
    # summed as int32, float32 takes an eighth of the time of the multiplication that it guards
    words, total = {
        1: (torch.int8, torch.int32),
        2: (torch.int16, torch.int32),
        4: (torch.int32, torch.int32),
        8: (torch.int64, torch.int64),
    }[weight.element_size()]
    return int(weight.detach().contiguous().view(words).sum(dtype=total))
