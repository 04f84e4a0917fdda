"""Remove directions from what weights write: the rank-level interventions of Wei et al.

Wei et al. 2024 (arXiv:2402.05162), sec. 3.2 and 3.3. In their `low_rank_diff` the ranks say what is
*not* kept (r_u = full rank - kept utility ranks); here every argument says what it keeps or takes.
Their projector and product are bfloat16, which leaves about 0.1 % of the removed energy; here both
are float64 and the result is cast once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import ArtifactMismatchError, Rank, RankBasis, UserError

SIDES = ("top", "bottom")
Matrix = Float[Tensor, "d_out d_in"]
Directions = Float[Tensor, "d_out _"]


@contextmanager
def projected(
    model: PreTrainedModel,
    safety: RankBasis,
    *,
    rank: Rank,
    utility: RankBasis | None = None,
    keep_utility: Rank | None = None,
    which: str = "top",
) -> Iterator[PreTrainedModel]:
    """Take directions out of the weights while in the block, then put them back bit for bit.

    With P_s = U_s U_s^T over the top `rank` safety directions, a weight W becomes:

    - W - P_s W, without `utility`: the top ranks are removed.
    - W - (I - P_u) P_s W with it: of the top safety directions, what lies outside of the top
      `keep_utility` utility directions. (In the paper r_s = full rank - `rank` and
      r_u = full rank - `keep_utility`.)
    - P W with `which="bottom"`, P over all but the last `rank` directions: the ranks that matter
      least are removed.

    Args:
        model: Changed in place; a copy of every changed weight is kept aside.
        safety: The directions, such as `actsvd` gives.
        rank: How many directions: a number, or as a float in [0, 1] a share of the matrix's.
        utility: Directions that are not to be touched.
        keep_utility: How many of them.
        which: `top` or `bottom`.

    Raises:
        UserError: A rank above the matrix's or those known, or settings that do not go together.
        ArtifactMismatchError: The ranks are of another model.
    """
    ranks = removed_ranks(
        safety, rank=rank, utility=utility, keep_utility=keep_utility, which=which
    )
    _check_shapes(model, safety)
    touched = [name for name, count in ranks.by_weight.items() if count]
    weights = {name: model.get_parameter(name) for name in touched}
    kept: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                stored = weight.detach()
                matrix = (stored.T if name in safety.transposed else stored).to(_precise(stored))
                if which == "bottom":
                    new = _without_bottom(matrix, safety, name, rank)
                else:
                    kept_ranks = None if utility is None else utility.top(name, keep_utility or 0)
                    new = matrix - _lost(matrix, safety.top(name, rank), kept_ranks)
                kept[name] = stored.clone()
                stored.copy_(new.T if name in safety.transposed else new)
        yield model
    finally:
        with torch.no_grad():
            for name, values in kept.items():
                weights[name].detach().copy_(values)


def _precise(weight: Tensor) -> torch.dtype:
    return torch.float32 if weight.device.type == "mps" else torch.float64


def _lost(matrix: Matrix, safety: Directions, utility: Directions | None) -> Matrix:
    """Return (I - U_u U_u^T) U_s U_s^T W, the smaller products first."""
    taken = safety.to(matrix)
    outside = taken
    if utility is not None:
        kept = utility.to(matrix)
        outside = taken - kept @ (kept.T @ taken)
    lost: Tensor = outside @ (taken.T @ matrix)
    return lost


def _without_bottom(matrix: Matrix, ranks: RankBasis, name: str, rank: Rank) -> Matrix:
    """Return U U^T W, U all directions but the last ones."""
    full, count = ranks.full_ranks[name], ranks.count(name, rank)
    known = ranks.top(name, full) if ranks.directions[name].shape[1] == full else None
    if known is not None and len(known) == full and count <= full // 2:
        # U is a whole basis of the outputs: the last directions are the fewer to multiply
        return matrix - _lost(matrix, known[:, full - count :], None)
    kept = ranks.top(name, full - count).to(matrix)
    left: Tensor = kept @ (kept.T @ matrix)
    return left


class RemovedRanks(NamedTuple):
    """How many ranks an intervention takes from the weights.

    Attributes:
        num_removed: Over all weights, the rank of the change.
        num_ranks: The ranks that the weights can have.
        by_weight: The ranks that each weight loses.
    """

    num_removed: int
    num_ranks: int
    by_weight: dict[str, int]

    @property
    def share(self) -> float:
        """Share of the ranks that is removed, in [0, 1]."""
        return self.num_removed / self.num_ranks


def removed_ranks(
    safety: RankBasis,
    *,
    rank: Rank,
    utility: RankBasis | None = None,
    keep_utility: Rank | None = None,
    which: str = "top",
) -> RemovedRanks:
    """Return how many ranks `projected` takes with the same arguments.

    With `utility`, the change of a weight has the rank min(rank, full rank - keep_utility): what
    the paper writes as min(r_u, full rank - r_s).

    Raises:
        UserError: As `projected` says.
        ArtifactMismatchError: Safety and utility are of two models.
    """
    _check_settings(utility, keep_utility, which)
    if utility is not None:
        safety.check_same_weights(utility)
    by_weight = {}
    for name, full in safety.full_ranks.items():
        count = safety.count(name, rank)
        safety.top(name, full - count if which == "bottom" and count else count)
        if utility is not None and keep_utility is not None:
            room = full - utility.count(name, keep_utility)
            utility.top(name, keep_utility)
            count = min(count, room)
        by_weight[name] = count
    return RemovedRanks(sum(by_weight.values()), safety.num_ranks, by_weight)


def _check_settings(utility: RankBasis | None, keep_utility: Rank | None, which: str) -> None:
    if which not in SIDES:
        raise UserError(f"which must be {' or '.join(SIDES)}, got {which!r}")
    if (utility is None) != (keep_utility is None):
        raise UserError(
            "utility and keep_utility go together: the utility ranks, and how many to leave alone"
        )
    if utility is not None and which == "bottom":
        raise UserError("utility ranks are left alone by which='top' only")


def _check_shapes(model: PreTrainedModel, ranks: RankBasis) -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, full in ranks.full_ranks.items():
        if name not in shapes:
            raise ArtifactMismatchError(
                f"the ranks are of another model: {type(model).__name__} has no weight {name!r}"
            )
        d_out = shapes[name][-1 if name in ranks.transposed else 0]
        known = ranks.top(name, 0).shape[0]
        if d_out != known or min(shapes[name]) != full:
            raise ArtifactMismatchError(
                f"the ranks are of another model: {name} is {shapes[name]} in the model, its "
                f"directions have {known} entries and it could have {full} ranks"
            )
