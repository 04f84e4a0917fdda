"""Sampling whose draws belong to a row, not to its batch.

The largest of logits / T plus independent Gumbel noise is a draw from softmax(logits / T) (Gumbel
1954), so greedy decoding over noisy logits samples. Each row has a generator of its own, so neither
the batch, its padding nor the order of the prompts changes what is drawn.
"""

import dataclasses
import hashlib
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList


def draw_seed(seed: int, request: str, sample: int) -> int:
    """Return the seed of one answer: the same for the same request, wherever it stands."""
    digest = hashlib.sha256(repr((seed, request, sample)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draws:
    """How rows are sampled.

    Attributes:
        temperature: What the logits are divided by, above 0.
        seeds: One a row.
    """

    temperature: float
    seeds: tuple[int, ...]

    def of(self, rows: Iterable[int]) -> "Draws":
        """Return those of some rows, in that order."""
        return dataclasses.replace(self, seeds=tuple(self.seeds[row] for row in rows))

    def processors(self) -> LogitsProcessorList:
        """Return what makes greedy decoding sample; fresh, so from the first draw."""
        return LogitsProcessorList([_GumbelNoise(self)])


class _GumbelNoise(LogitsProcessor):
    def __init__(self, draws: Draws) -> None:
        self._temperature = draws.temperature
        self._generators = [torch.Generator().manual_seed(seed) for seed in draws.seeds]

    def __call__(
        self, input_ids: Int[Tensor, "batch seq"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        # minus the logarithm of an exponential variable is a Gumbel variable; drawn on the CPU,
        # whose stream is the same for every device
        waits = torch.stack(
            [torch.empty(scores.shape[1]).exponential_(generator=g) for g in self._generators]
        )
        return scores.float() / self._temperature - waits.log().to(scores.device)
