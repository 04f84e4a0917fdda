"""One pass over one matrix: what its change is as a whole, and at the members of the sets.

All sums are in float64 over float32 chunks of rows, so no more than a chunk is made at once.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from safetypin.artifacts import UserError
from safetypin.track._margins import Adder, Closed, Floats, Margins, by_row, dot
from safetypin.track._reference import Index
from safetypin.track._sources import Change

TINY = 1e-8  # below it the papers' code calls the relative change 0

_CHUNK = 1 << 20  # entries worked on at once

Matrix = Float[Tensor, "d_out d_in"]


class Turns(NamedTuple):
    """How rows w turned to w + d.

    Attributes:
        own: |w|^2.
        across: Square of the part of d that is at right angles to w.
        distance: 1 - cos of w with w + d.
    """

    own: Floats
    across: Floats
    distance: Floats


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Whole:
    """The change of a whole matrix: the amounts that a measure of any set is made of.

    Attributes:
        rms: Root mean square of its weights before.
        margins: Of |dW| / rms for `rms_units`, of dW^2 for `norm_ratio`, and for `row_cosine` of
            half of each row's `Turns.across`.
        changed: Share of the entries that can change and did.
        distances: 1 - cos of each row.
        leverage: 1 / |w|^2 of each row, 0 for a row of zeros.
    """

    rms: float
    margins: Mapping[str, Margins]
    changed: float
    distances: Floats
    leverage: Floats


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """What a set's measures are made of in one matrix, over its members that can change.

    Attributes:
        num_weights: Members, also those that cannot change.
        num_trainable: Members that can.
        totals: By measure, the sum over the members: of |dW| / rms, of dW^2, of 1 - cos of the
            row, of |dW| / |W|, and of 1 where dW is not 0.
        expected: By measure, what that would be if the changes were anywhere in the matrix.
        excess: By measure that is tested, by how much the members' amounts are above the mean.
        weight_square: Sum of W^2.
        rows: Members in each row.
        columns: Members in each column.
    """

    num_weights: int
    num_trainable: int = 0
    totals: Mapping[str, float] = dataclasses.field(default_factory=dict)
    expected: Mapping[str, float] = dataclasses.field(default_factory=dict)
    excess: Mapping[str, float] = dataclasses.field(default_factory=dict)
    weight_square: float = 0.0
    rows: Floats | None = None
    columns: Floats | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One matrix of the model, measured.

    Attributes:
        layer: Number of its block, None outside the blocks.
        role: Its place in the block, such as `mlp.up_proj`.
        whole: Its change; None where nothing could change it.
        sums: By group.
    """

    layer: int | None
    role: str
    whole: Whole | None
    sums: Mapping[str, Sums]


def measure_whole(
    weight: Matrix, change: Change, index: int, closed: Closed | None, called: str
) -> Whole:
    """Return what happened to a matrix, in one pass over its rows.

    Args:
        weight: Its values before.
        change: Its change, as one of several matrices.
        index: Which of them.
        closed: True where an entry could not change.
        called: Its name, for errors.

    Raises:
        UserError: It is all zeros, or the change is not finite.
    """
    rms = float(torch.linalg.vector_norm(weight, dtype=torch.float64)) / math.sqrt(weight.numel())
    if not rms:
        raise UserError(f"{called} is all zeros before the training; leave it out of the groups")
    num_rows, num_columns = weight.shape
    absolute, square, num_changed = Adder(weight.shape), Adder(weight.shape), 0
    turns = Turns(*np.empty((3, num_rows)))
    step = max(_CHUNK // num_columns, 1)
    for start in range(0, num_rows, step):
        stop = min(start + step, num_rows)
        moved = change.rows(index, start, stop)
        if not math.isfinite(float(moved.sum())):
            raise UserError(
                f"{called} has NaN or infinite weights after the training, which has failed; "
                "track a checkpoint from before that"
            )
        for kept, part in zip(turns, row_turns(weight[start:stop], moved), strict=True):
            kept[start:stop] = part
        size = moved.abs()
        if closed is not None:
            size = size.masked_fill(closed[start:stop], 0.0)
        num_changed += int(torch.count_nonzero(size))
        absolute.add(start, size)
        square.add(start, size.square_())
    return Whole(
        rms=rms,
        margins={
            "rms_units": absolute.margins(closed, 1 / rms),
            "norm_ratio": square.margins(closed, 1.0),
            "row_cosine": by_row(turns.across / 2, num_columns),
        },
        changed=num_changed / (weight.numel() - (0 if closed is None else int(closed.sum()))),
        distances=turns.distance,
        leverage=np.divide(1.0, turns.own, out=np.zeros(num_rows), where=turns.own > 0),
    )


def row_turns(before: Float[Tensor, "rows d_in"], moved: Float[Tensor, "rows d_in"]) -> Turns:
    """Return how each row w turned to w + d.

    The distance is in [0, 2]; that of a row of zeros is 0 if it stays so, else 1, and so is that
    of a row that becomes zeros. With a = |w| + (the part of d along w) and h = |w + d| it is
    (h - a) / h = across / (h (h + a)), as cos = a / h itself is 1 to seven digits and more.
    """
    own, change, after = (
        torch.linalg.vector_norm(part, dim=1, dtype=torch.float64).square().numpy()
        for part in (before, moved, before + moved)
    )
    product = (before * moved).sum(dim=1, dtype=torch.float64).numpy()
    is_row = (own > 0) & (after > 0)
    size = np.sqrt(np.where(is_row, own, 1.0))
    along = np.where(is_row, product, 0.0) / size
    across = np.maximum(change - along**2, 0.0)
    straight = size + along
    long = np.hypot(straight, np.sqrt(across))
    # behind a right angle, where h + a is small, h - a is not
    near = np.divide(across, long * (long + straight), out=np.ones_like(own), where=straight > 0)
    far = np.divide(straight, long, out=np.ones_like(own), where=long > 0)
    distance = np.where(straight > 0, near, 1 - far)
    return Turns(own, across, np.where(is_row, distance, np.where(change > 0, 1.0, 0.0)))


def measure_members(
    weight: Matrix,
    change: Change,
    index: int,
    places: tuple[Index, Index],
    closed: Closed | None,
    whole: Whole,
) -> Sums:
    """Return the sums over a set's members in one matrix, at their entries only."""
    rows, columns = places
    if closed is not None:
        is_open = ~closed[rows, columns]
        rows, columns = rows[is_open], columns[is_open]
    moved = change.at(index, rows, columns).abs().double().numpy()
    size = weight[rows, columns].abs().double().numpy()
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=size > TINY)
    first, second, count = rows.numpy(), columns.numpy(), len(moved)
    means = {measure: part.mean for measure, part in whole.margins.items()}
    turn, leverage = whole.margins["row_cosine"], whole.leverage[first]
    totals = {
        "rms_units": float(moved.sum()) / whole.rms,
        "norm_ratio": dot(moved, moved),
        "row_cosine": float(whole.distances[first].sum()),
        "relative_change": dot(moved, inverse),
        "changed_share": float(np.count_nonzero(moved)),
    }
    expected = {
        "rms_units": count * means["rms_units"],
        "norm_ratio": count * means["norm_ratio"],
        # 1 - cos of a row that gets the mean change, all of it across
        "row_cosine": float((1 - 1 / np.sqrt(1 + 2 * turn.mean * leverage)).sum()),
        "relative_change": means["rms_units"] * whole.rms * float(inverse.sum()),
        "changed_share": count * whole.changed,
    }
    return Sums(
        num_weights=len(places[0]),
        num_trainable=count,
        totals=totals,
        expected=expected,
        excess={
            "rms_units": totals["rms_units"] - expected["rms_units"],
            "norm_ratio": totals["norm_ratio"] - expected["norm_ratio"],
            "row_cosine": dot(turn.rows[first], leverage),
        },
        weight_square=dot(size, size),
        rows=np.bincount(first, minlength=weight.shape[0]).astype(np.float64),
        columns=np.bincount(second, minlength=weight.shape[1]).astype(np.float64),
    )
