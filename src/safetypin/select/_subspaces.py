"""How much two sets of directions share, and how alike the sets of several methods are.

Similarity of subspaces: Hu et al. 2021 (arXiv:2106.09685), app. G, as Wei et al. 2024
(arXiv:2402.05162), fig. 4, use it at r = 100.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from safetypin.artifacts import ArtifactMismatchError, Rank, RankBasis, WeightMask
from safetypin.select._overlap import Overlap, overlap
from safetypin.select._places import layer_index

Halves = Mapping[str, tuple[RankBasis, RankBasis]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubspaceOverlap:
    """What two subspaces share, of one weight or summed over several.

    Attributes:
        num_a: Directions of the first.
        num_b: Directions of the second.
        shared: ||U_a^T U_b||_F^2: the directions they share, each by its squared cosine.
        most: The smaller number of directions, which is the most they could share.
        chance_shared: What random ones would share, in the space that the weight can reach.
        floors: What the same score shares between two halves of its prompts, by its name.
    """

    num_a: int
    num_b: int
    shared: float
    most: int
    chance_shared: float
    floors: Mapping[str, float]

    @property
    def similarity(self) -> float | None:
        """||U_a^T U_b||_F^2 / min(r_a, r_b), in [0, 1]; None of nothing."""
        return self.shared / self.most if self.most else None

    @property
    def chance(self) -> float | None:
        """The similarity of random directions: max(r_a, r_b) / min(d_out, d_in)."""
        return self.chance_shared / self.most if self.most else None

    @property
    def noise_floor(self) -> float | None:
        """The lowest of the floors: of the score that repeats itself least."""
        return min(self.floors.values(), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return counts, similarity, chance and floors as JSON values."""
        derived = {name: getattr(self, name) for name in ("similarity", "chance", "noise_floor")}
        return {**dataclasses.asdict(self), "floors": dict(self.floors), **derived}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubspaceOverlaps:
    """What two rank bases share.

    Attributes:
        by_weight: By parameter name.
        by_layer: By block; its similarity is the mean over its weights' directions.
    """

    by_weight: Mapping[str, SubspaceOverlap]
    by_layer: Mapping[int, SubspaceOverlap]


def subspace_overlap(
    a: RankBasis, b: RankBasis, rank: Rank, *, halves: Halves | None = None
) -> SubspaceOverlaps:
    """Return how alike the top `rank` directions of two bases are, weight by weight.

    Chance is that of directions drawn in the min(d_out, d_in) dimensions that a weight can reach;
    among all d_out, as is usual, the directions of gate and up would look more alike than they are.

    Args:
        a: Such as the safety ranks.
        b: Such as the utility ranks, of the same model.
        rank: How many directions of each: a number, or as a float a share of the matrix's.
        halves: By name, the ranks of one score on two disjoint halves of its prompts.

    Raises:
        UserError: A rank above the matrix's, or above those that are known.
        ArtifactMismatchError: The bases are of different weights or models.
    """
    halves = halves or {}
    for first, second in ((a, b), *halves.values()):
        a.check_same_weights(first)
        a.check_same_weights(second)
    by_weight = {name: _of_weight(a, b, name, rank, halves) for name in a.full_ranks}
    layers: dict[int, list[SubspaceOverlap]] = {}
    for name, found in by_weight.items():
        layer = layer_index(name)
        if layer is not None:
            layers.setdefault(layer, []).append(found)
    return SubspaceOverlaps(
        by_weight=by_weight, by_layer={layer: _summed(layers[layer]) for layer in sorted(layers)}
    )


def _of_weight(
    a: RankBasis, b: RankBasis, name: str, rank: Rank, halves: Halves
) -> SubspaceOverlap:
    sizes = [one.count(name, rank) for one in (a, b)]
    most = min(sizes)
    return SubspaceOverlap(
        num_a=sizes[0],
        num_b=sizes[1],
        shared=_shared(a, b, name, rank),
        most=most,
        chance_shared=sizes[0] * sizes[1] / a.full_ranks[name],
        floors={
            key: _shared(first, second, name, rank) / most
            for key, (first, second) in halves.items()
            if most
        },
    )


def _shared(a: RankBasis, b: RankBasis, name: str, rank: Rank) -> float:
    mine, other = a.top(name, rank).double(), b.top(name, rank).double()
    return float((mine.T @ other).square().sum())


def _summed(parts: Sequence[SubspaceOverlap]) -> SubspaceOverlap:
    most = sum(part.most for part in parts)
    names = dict.fromkeys(name for part in parts for name in part.floors)
    return SubspaceOverlap(
        num_a=sum(part.num_a for part in parts),
        num_b=sum(part.num_b for part in parts),
        shared=sum(part.shared for part in parts),
        most=most,
        chance_shared=sum(part.chance_shared for part in parts),
        floors={
            name: sum(part.floors.get(name, 0.0) * part.most for part in parts) / most
            for name in names
        },
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodMatrix:
    """What the sets of several methods share, each with each.

    Attributes:
        names: Of the methods, in order.
        overlaps: By a pair of names.
    """

    names: tuple[str, ...]
    overlaps: Mapping[tuple[str, str], Overlap]

    def to_json(self) -> dict[str, Any]:
        """Return Jaccard indices and shares of the smaller set, with chance, as grids in order."""

        def grid(value: str) -> list[list[float | None]]:
            rows = [[self.overlaps[one, other] for other in self.names] for one in self.names]
            return [[getattr(cell, value) for cell in row] for row in rows]

        return {
            "methods": list(self.names),
            "num_selected": [self.overlaps[name, name].num_a for name in self.names],
            "jaccard": grid("jaccard"),
            "chance": grid("chance_jaccard"),
            "share_of_smaller": grid("share_of_smaller"),
            "chance_share_of_smaller": grid("chance_share_of_smaller"),
        }


def method_matrix(masks: Mapping[str, WeightMask]) -> MethodMatrix:
    """Return how alike the sets of several methods are, each pair with its chance level.

    Args:
        masks: Sets of the same weights, by the name of the method.

    Raises:
        ArtifactMismatchError: Two sets are of different weights or models.
    """
    if not masks:
        raise ArtifactMismatchError("there are no sets to compare")
    overlaps = {}
    names = tuple(masks)
    for place, one in enumerate(names):
        for other in names[place:]:
            overlaps[one, other] = overlap(masks[one], masks[other])
            overlaps[other, one] = overlap(masks[other], masks[one])
    return MethodMatrix(names=names, overlaps=overlaps)
