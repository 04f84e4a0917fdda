"""How much two sets share, beside what two random sets of the same sizes would share.

Chance is that of sets drawn uniformly and independently in every matrix: the shared number is
hypergeometric, with mean a b / N and variance a b (N - a)(N - b) / (N^2 (N - 1)) for sets of a and
b among N weights. Both add up over matrices, because they are drawn independently.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

from safetypin.artifacts import WeightMask
from safetypin.select._places import layer_index, matrices, role

Range = tuple[float, float]

_Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlap:
    """What two sets share. Shares are None where they would be of nothing.

    Attributes:
        num_weights: Weights that could be in the sets.
        num_a: Weights in the first set.
        num_b: Weights in the second set.
        num_both: Weights in both.
        chance_both: How many two random sets of these sizes would share, on average.
        chance_sd: Standard deviation of that number.
    """

    num_weights: int
    num_a: int
    num_b: int
    num_both: int
    chance_both: float
    chance_sd: float

    @property
    def jaccard(self) -> float | None:
        """|A and B| / |A or B|."""
        return self._jaccard_of(float(self.num_both))

    @property
    def share_of_a(self) -> float | None:
        """Share of the first set that is in the second, in [0, 1]."""
        return self._share_of(float(self.num_both))

    @property
    def share_of_smaller(self) -> float | None:
        """Share of the smaller set that is in the larger: 1 for a set inside of another."""
        return self._share_of_smaller(float(self.num_both))

    @property
    def chance_share_of_smaller(self) -> float | None:
        """The expected share of the smaller set that is in a random larger one."""
        return self._share_of_smaller(self.chance_both)

    @property
    def chance_jaccard(self) -> float | None:
        """The Jaccard index at the expected shared number."""
        return self._jaccard_of(self.chance_both)

    @property
    def chance_share(self) -> float | None:
        """The expected share of the first set that is in a random second one."""
        return self._share_of(self.chance_both)

    @property
    def chance_jaccard_interval(self) -> Range | None:
        """Where 95 % of random sets' Jaccard indices lie, by the normal approximation."""
        return self._ends(self._jaccard_of)

    @property
    def chance_share_interval(self) -> Range | None:
        """Where 95 % of random sets' shares lie, by the normal approximation."""
        return self._ends(self._share_of)

    def to_json(self) -> dict[str, object]:
        """Return counts, shares, chance levels and intervals as JSON values."""
        derived = (
            "jaccard",
            "share_of_a",
            "chance_jaccard",
            "chance_jaccard_interval",
            "chance_share",
            "chance_share_interval",
        )
        values = {name: getattr(self, name) for name in derived}
        values = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }
        return dataclasses.asdict(self) | values

    def _jaccard_of(self, num_both: float) -> float | None:
        union = self.num_a + self.num_b - num_both
        return num_both / union if union else None

    def _share_of_smaller(self, num_both: float) -> float | None:
        smaller = min(self.num_a, self.num_b)
        return num_both / smaller if smaller else None

    def _share_of(self, num_both: float) -> float | None:
        return num_both / self.num_a if self.num_a else None

    def _ends(self, measure: Callable[[float], float | None]) -> Range | None:
        # More than this two sets cannot share, nor less: the approximation could say so
        most = float(min(self.num_a, self.num_b))
        least = float(max(self.num_a + self.num_b - self.num_weights, 0))
        half = _Z_95 * self.chance_sd
        low = measure(max(self.chance_both - half, least))
        high = measure(min(self.chance_both + half, most))
        return None if low is None or high is None else (low, high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupOverlap:
    """What two sets share within a part of the model.

    Attributes:
        layer: Number of the block; None where the part is no single block.
        role: Place in the block, as `mlp.up_proj`; None where the part is a whole block.
        overlap: What they share there.
    """

    layer: int | None
    role: str | None
    overlap: Overlap

    def to_json(self) -> dict[str, object]:
        """Return layer, role and overlap as JSON values."""
        return {"layer": self.layer, "role": self.role, **self.overlap.to_json()}


def overlap(a: WeightMask, b: WeightMask) -> Overlap:
    """Return what two sets share over all their weights, and its chance level.

    Raises:
        ArtifactMismatchError: The sets are of different weights.
    """
    a.check_same_weights(b)
    return pooled(_matrix_overlaps(a, b, a.tensors))


def overlap_by_layer(a: WeightMask, b: WeightMask) -> list[GroupOverlap]:
    """Return what two sets share in each block, and outside the blocks last (layer None)."""
    return _grouped(a, b, lambda name: (layer_index(name), None))


def overlap_by_role(a: WeightMask, b: WeightMask) -> list[GroupOverlap]:
    """Return what two sets share in each role, over all blocks, in the order of the model."""
    return _grouped(a, b, lambda name: (None, role(name)))


def overlap_by_matrix(a: WeightMask, b: WeightMask) -> list[GroupOverlap]:
    """Return what two sets share in each role of each block: the cells of a heat map.

    With a set and itself, it tells where the set lies: `num_a` of `num_weights`.
    """
    return _grouped(a, b, lambda name: (layer_index(name), role(name)))


def _grouped(
    a: WeightMask, b: WeightMask, place: Callable[[str], tuple[int | None, str | None]]
) -> list[GroupOverlap]:
    a.check_same_weights(b)
    names: dict[tuple[int | None, str | None], list[str]] = {}
    for name in a.tensors:
        names.setdefault(place(name), []).append(name)
    groups = [
        GroupOverlap(layer=layer, role=part, overlap=pooled(_matrix_overlaps(a, b, members)))
        for (layer, part), members in names.items()
    ]
    return sorted(groups, key=lambda group: math.inf if group.layer is None else group.layer)


def _matrix_overlaps(a: WeightMask, b: WeightMask, names: Iterable[str]) -> list[Overlap]:
    """Return what two sets share in each matrix, with its own chance level."""
    overlaps = []
    for name in names:
        ours, theirs = (
            matrices(a.tensors[name]),
            matrices(b.tensors[name].to(a.tensors[name].device)),
        )
        for mine, other in zip(ours, theirs, strict=True):
            counts = (int(mine.sum()), int(other.sum()), int((mine & other).sum()))
            overlaps.append(_matrix_overlap(mine.numel(), *counts))
    return overlaps


def _matrix_overlap(num_weights: int, num_a: int, num_b: int, num_both: int) -> Overlap:
    mean = num_a * num_b / num_weights if num_weights else 0.0
    spread = (num_weights - num_a) * (num_weights - num_b)
    # one weight leaves nothing to chance
    variance = mean * spread / (num_weights * (num_weights - 1)) if num_weights > 1 else 0.0
    return Overlap(
        num_weights=num_weights,
        num_a=num_a,
        num_b=num_b,
        num_both=num_both,
        chance_both=mean,
        chance_sd=math.sqrt(variance),
    )


def pooled(parts: Sequence[Overlap]) -> Overlap:
    """Return what two sets share over several parts of the model together."""
    return Overlap(
        num_weights=sum(part.num_weights for part in parts),
        num_a=sum(part.num_a for part in parts),
        num_b=sum(part.num_b for part in parts),
        num_both=sum(part.num_both for part in parts),
        chance_both=math.fsum(part.chance_both for part in parts),
        chance_sd=math.sqrt(math.fsum(part.chance_sd**2 for part in parts)),
    )
