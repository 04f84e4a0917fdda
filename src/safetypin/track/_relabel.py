"""Permutation p-values: could as many changes, laid out alike, have met the set by chance?

What is permuted: in each matrix whole rows of the change change places, and whole columns do, the
weights and the sets staying where they are. All matrices with as many rows (columns) get the same
reordering. So a set is compared with sets of the same shape in the same matrices, and the changes
keep what they have in common along a row, along a column, and from matrix to matrix. Permuting
single entries would not do: an adapter's change is large in whole rows and columns, a set lies in
some rows and columns more than in others, and the two meet by chance; entries permuted one by one
would call that an effect nearly always.

With V = mean + a_i + b_j + e_ij, the sum over the members moves by sum_i r_i a_(i') +
sum_j c_j b_(j') + the rest, r_i and c_j being the members in row i and column j. The first two
are computed for every reordering. The third is drawn from the normal distribution with its exact
variance under reordering, |M|^2 |e|^2 / ((R - 1) (C - 1)), M the mask without its row and column
means: it is a sum over all members, which to move one by one would cost their number times the
number of permutations.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safetypin.track._cells import Cell
from safetypin.track._margins import Floats
from safetypin.track._measure import Measured

TESTED = ("rms_units", "norm_ratio", "row_cosine")

Single = NDArray[np.float32]

_MAX_CELLS = 1 << 22  # numbers of a block of reorderings
_SLACK = 1e-6  # of the sum itself: equal sums differ by the rounding of float32


class Chance(NamedTuple):
    """What reorderings make of a sum, the expected sum being 0.

    Attributes:
        p_value: Two-sided, at least 1 / (n + 1).
        low: Below it are 2.5 % of the reorderings.
        high: Above it are 2.5 %.
    """

    p_value: float
    low: float
    high: float


def chances(
    measured: Sequence[Measured],
    cells: Mapping[Cell, Sequence[int]],
    groups: Sequence[str],
    *,
    num_permutations: int,
    seed: int,
) -> dict[tuple[str, str, Cell], Chance]:
    """Return what chance gives, by measure, group and cell.

    Args:
        measured: The matrices.
        cells: The parts of the model to test, as indices of matrices.
        groups: Names of the groups.
        num_permutations: Reorderings to draw.
        seed: Of the reorderings.
    """
    member = np.zeros((len(cells), len(measured)), dtype=np.float32)
    for row, indices in enumerate(cells.values()):
        member[row, list(indices)] = 1.0
    found = {}
    for measure in TESTED:
        excess, expected = _sums(measure, measured, groups)
        observed = np.abs(member @ excess) - _SLACK * (member @ expected)
        blocks = _random_sums(measure, measured, groups, num_permutations, seed)
        # (permutations, cells, groups)
        sums = np.concatenate([np.einsum("cm,pmg->pcg", member, part) for part in blocks])
        p_values = ((np.abs(sums) >= observed).sum(axis=0) + 1) / (num_permutations + 1)
        low, high = np.quantile(sums, [0.025, 0.975], axis=0)
        for row, key in enumerate(cells):
            for column, group in enumerate(groups):
                place = row, column
                chance = Chance(float(p_values[place]), float(low[place]), float(high[place]))
                found[measure, group, key] = chance
    return found


def _sums(
    measure: str, measured: Sequence[Measured], groups: Sequence[str]
) -> tuple[Floats, Floats]:
    """Return (matrices, groups): what each set's sum is above the expected one, and that one."""
    excess, expected = np.zeros((2, len(measured), len(groups)))
    for row, one in enumerate(measured):
        for column, group in enumerate(groups):
            sums = one.sums[group]
            if sums.num_trainable:
                expected[row, column] = sums.expected[measure]
                excess[row, column] = sums.excess[measure]
    return excess, expected


def _random_sums(
    measure: str,
    measured: Sequence[Measured],
    groups: Sequence[str],
    num_permutations: int,
    seed: int,
) -> Iterator[Single]:
    """Yield what the sums would be above the expected ones, in blocks of reorderings."""
    moving = [index for index, one in enumerate(measured) if one.whole is not None]
    counts = {index: _counts(measured[index], groups) for index in moving}
    longest = max((max(map(len, counts[index])) for index in moving), default=1)
    step = max(_MAX_CELLS // max(longest, len(measured) * len(groups)), 1)
    orders = _Orders(seed)
    # a stream a matrix, so that the blocks make no difference
    normal = {index: np.random.default_rng([seed, 2, index]) for index in moving}
    for start in range(0, num_permutations, step):
        size = min(step, num_permutations - start)
        orders.draw(size)
        sums = np.zeros((size, len(measured), len(groups)), dtype=np.float32)
        for index in moving:
            whole = measured[index].whole
            assert whole is not None
            margins, (rows, columns) = whole.margins[measure], counts[index]
            if measure == "row_cosine":
                rows = rows * whole.leverage[:, None]
            sums[:, index] += _moved(margins.rows, rows, orders, "rows")
            sums[:, index] += _moved(margins.columns, columns, orders, "columns")
            rest_sd = np.sqrt(margins.rest * _spread(rows, columns))
            sums[:, index] += normal[index].standard_normal((size, len(groups))) * rest_sd
        yield sums


class _Orders:
    """Random orders of rows and of columns, the same for all matrices with as many of them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._streams: dict[tuple[str, int], np.random.Generator] = {}
        self._drawn: dict[tuple[str, int], Tensor] = {}
        self._count = 0

    def draw(self, count: int) -> None:
        """Forget the orders that were given; so many new ones are drawn when they are asked for."""
        self._count, self._drawn = count, {}

    def of(self, axis: str, length: int) -> Tensor:
        """Return the orders (count, length), int32."""
        key = (axis, length)
        if key not in self._streams:
            entropy = [self._seed, int(axis == "rows"), length]
            self._streams[key] = np.random.default_rng(entropy)
        if key not in self._drawn:
            identity = np.tile(np.arange(length, dtype=np.int32), (self._count, 1))
            self._drawn[key] = torch.from_numpy(self._streams[key].permuted(identity, axis=1))
        return self._drawn[key]


def _moved(effects: Floats, counts: Floats, orders: _Orders, axis: str) -> Single | float:
    """Return sum_i counts_i effects_(order_i) for each order and group."""
    if not effects.any():
        return 0.0
    order = orders.of(axis, len(effects))
    taken = torch.from_numpy(effects.astype(np.float32)).index_select(0, order.view(-1))
    weights = torch.from_numpy(counts.astype(np.float32))
    moved: Single = (taken.view(order.shape) @ weights).numpy()
    return moved


def _counts(one: Measured, groups: Sequence[str]) -> tuple[Floats, Floats]:
    """Return how many members each group has in each row, and in each column: (rows, groups)."""
    assert one.whole is not None
    shape = [len(one.whole.distances), len(one.whole.margins["rms_units"].columns)]
    rows, columns = (np.zeros((length, len(groups))) for length in shape)
    for index, group in enumerate(groups):
        sums = one.sums[group]
        if sums.rows is not None and sums.columns is not None:
            rows[:, index], columns[:, index] = sums.rows, sums.columns
    return rows, columns


def _spread(rows: Floats, columns: Floats) -> Floats:
    """Return |M|^2 / ((R - 1) (C - 1)) of each group's mask without its row and column means."""
    num_rows, num_columns = len(rows), len(columns)
    if min(num_rows, num_columns) < 2:
        return np.zeros(rows.shape[1])
    count = rows.sum(axis=0)
    square = count - (rows**2).sum(axis=0) / num_columns - (columns**2).sum(axis=0) / num_rows
    square += count**2 / (num_rows * num_columns)
    spread: Floats = np.maximum(square, 0.0) / ((num_rows - 1) * (num_columns - 1))
    return spread
