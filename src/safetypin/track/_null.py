"""A training that did nothing: random changes that know neither the weights nor the sets.

What a measure shows here is the measure's own doing.
"""

import hashlib
import math

import torch

from safetypin.artifacts import UserError
from safetypin.track._reference import Before, Reference, open_reference
from safetypin.track._sources import Change, Dense, LowRank


class NullModel:
    """The reference plus noise, made one weight at a time; see `null_model`."""

    def __init__(self, reference: Reference, sd: float, seed: int, rank: int | None) -> None:
        self.name, self.notes = "null model", list[str]()
        self._reference, self._sd, self._seed, self._rank = reference, sd, seed, rank

    def change(self, name: str) -> Change | None:
        """Return a weight's noise, drawn again, and the same, each time."""
        digest = hashlib.sha256(f"{self._seed} {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], signed=True))
        grid, rank = self._reference.grid(name), self._rank
        if rank is None or grid[0] > 1:
            return Dense(torch.randn(grid, generator=generator) * self._sd)
        left = torch.randn(grid[1], rank, generator=generator)
        right = torch.randn(rank, grid[2], generator=generator)
        return LowRank(left * (self._sd / math.sqrt(rank)), right)


def null_model(
    reference: Before, sd: float, seed: int = 0, *, rank: int | None = None
) -> NullModel:
    """Return a tuned model whose changes are independent of the weights, to give to `drift`.

    Args:
        reference: The model that it pretends to be tuned from.
        sd: Standard deviation of the changes.
        seed: Of the noise; a weight's noise depends on it and on the weight's name alone.
        rank: That of the changes, as an adapter has (a tensor of experts has full rank all the
            same); None for independent entries.

    Raises:
        UserError: `sd` is not positive, or `rank` is below 1.
    """
    if not 0 < sd < math.inf:
        raise UserError(f"sd must be positive, got {sd:g}; 1e-4 is that of a usual fine-tuning")
    if rank is not None and rank < 1:
        raise UserError(f"rank must be at least 1, got {rank}; leave it out for full rank")
    return NullModel(open_reference(reference), sd, seed, rank)
