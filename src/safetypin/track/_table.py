"""The rows of a drift table, and what each measure is."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from safetypin.track._cells import Cell, level_of
from safetypin.track._measure import Measured, Sums
from safetypin.track._relabel import Chance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """What a measure of drift is.

    Attributes:
        help: One line.
        warning: What would make it mislead; "" where nothing special does.
    """

    help: str
    warning: str = ""


MEASURES: dict[str, Measure] = {
    "rms_units": Measure(
        help="mean |dW| over the set, each in units of the root mean square weight of its matrix",
    ),
    "norm_ratio": Measure(
        help="norm of the set's changes / norm of its weights before",
        warning=(
            "a set of large weights has a small ratio whatever happens to it; compare with what "
            "was expected, not with other sets"
        ),
    ),
    "row_cosine": Measure(
        help="mean over the set of the cosine of its row (the weights into one output) before and "
        "after; 1 is no turn",
        warning=(
            "a row of large weights turns less whatever happens to it; compare with what was "
            "expected, not with other sets"
        ),
    ),
    "relative_change": Measure(
        help="mean |dW| / |W| over the set, 0 where |W| <= 1e-8, as the papers have it",
        warning=(
            "dominated by the smallest |W|: a random set shows many times the change of a set of "
            "important, that is large, weights, also if all weights move alike; no evidence of "
            "anything, and not tested"
        ),
    ),
    "changed_share": Measure(
        help="share of the set that changed at all; below 1 where rounding hides small changes",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftRow:
    """One measure of one group in one part of the model.

    Attributes:
        group: Name of the group.
        layer: Number of the block; None for all, or outside the blocks.
        role: Place in the block, such as `mlp.up_proj`; None for all.
        measure: One of `MEASURES`.
        value: Over the members that can change; None, not 0, where there are none.
        expected: What it would be if the same changes had met other entries of the same matrices,
            in as many weights of each; None where there is no value.
        low, high: Between them 95 % of random reorderings of the changes lie; None where not
            tested.
        spread: Standard deviation over the matrices, each counted by its members that can change;
            None for fewer than two.
        num_weights: Members of the group here.
        num_trainable: Members that can change: an adapter is on them, they are not frozen, and
            their matrix is not untouched.
        p_value: Two-sided, of the set being as any other of its shape; None where not tested.
        p_corrected: The same after Holm's correction over the family: over the groups for the
            whole model, over the layers or the roles of one group for the others.
    """

    group: str
    layer: int | None
    role: str | None
    measure: str
    value: float | None
    expected: float | None
    low: float | None
    high: float | None
    spread: float | None
    num_weights: int
    num_trainable: int
    p_value: float | None = None
    p_corrected: float | None = None

    @property
    def trainable_share(self) -> float:
        """Share of the members that can change; 0 is to be read as "not trainable"."""
        return self.num_trainable / self.num_weights

    @property
    def ratio(self) -> float | None:
        """How many times as much as expected; of a cosine, how many times as far from 1."""
        if self.value is None or self.expected is None:
            return None
        one = 1.0 if self.measure == "row_cosine" else 0.0
        return (self.value - one) / (self.expected - one) if self.expected != one else None

    @property
    def level(self) -> str:
        """Which part of the model this is: all, layer, role or matrix."""
        return level_of((self.layer, self.role))

    def to_json(self) -> dict[str, object]:
        """Return all fields, level, ratio and trainable share, as JSON values."""
        return {
            "level": self.level,
            **dataclasses.asdict(self),
            "ratio": self.ratio,
            "trainable_share": self.trainable_share,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftTable:
    """How far the groups moved.

    Attributes:
        rows: By group, part of the model and measure. Where a group has no member in a part, there
            is no row.
        notes: What must be said beside the numbers.
        num_permutations: Reorderings behind each p-value.
        seed: Of the reorderings.
    """

    rows: tuple[DriftRow, ...]
    notes: tuple[str, ...]
    num_permutations: int
    seed: int

    def find(
        self, group: str, measure: str, *, layer: int | None = None, role: str | None = None
    ) -> DriftRow:
        """Return one row.

        Raises:
            KeyError: There is none.
        """
        for row in self.rows:
            if (row.group, row.measure, row.layer, row.role) == (group, measure, layer, role):
                return row
        raise KeyError(f"no row of {group}, {measure}, layer {layer}, role {role}")

    def to_rows(self) -> list[dict[str, object]]:
        """Return the rows as JSON values."""
        return [row.to_json() for row in self.rows]


def rows_of(
    measured: Sequence[Measured],
    group: str,
    cell: Cell,
    found: Mapping[tuple[str, str, Cell], Chance],
) -> list[DriftRow]:
    """Return one row a measure, none where the group has no member."""
    num_weights = sum(one.sums[group].num_weights for one in measured)
    if not num_weights:
        return []
    inside = [one.sums[group] for one in measured if one.sums[group].num_trainable]
    rows = []
    for measure in MEASURES:
        mean = math.fsum(sums.expected[measure] for sums in inside)
        chance = found.get((measure, group, cell)) if inside else None
        ends = [None, None] if chance is None else [mean + chance.low, mean + chance.high]
        low, high = (end if end is None else _finished(measure, end, inside) for end in ends)
        if measure == "row_cosine":
            low, high = high, low
        row = DriftRow(
            group=group,
            layer=cell[0],
            role=cell[1],
            measure=measure,
            value=_value(measure, inside),
            expected=_finished(measure, mean, inside),
            low=low,
            high=high,
            spread=_spread(measure, inside),
            num_weights=num_weights,
            num_trainable=sum(sums.num_trainable for sums in inside),
            p_value=None if chance is None else chance.p_value,
        )
        rows.append(row)
    return rows


def _value(measure: str, parts: Sequence[Sums]) -> float | None:
    return _finished(measure, math.fsum(sums.totals[measure] for sums in parts), parts)


def _finished(measure: str, total: float, parts: Sequence[Sums]) -> float | None:
    """Return a measure from the sum over the members of what it is made of."""
    count = sum(sums.num_trainable for sums in parts)
    if not count:
        return None
    if measure == "norm_ratio":
        size = math.fsum(sums.weight_square for sums in parts)
        return math.sqrt(max(total, 0.0) / size) if size else None
    return 1 - total / count if measure == "row_cosine" else total / count


def _spread(measure: str, parts: Sequence[Sums]) -> float | None:
    values = [(_value(measure, [sums]), sums.num_trainable) for sums in parts]
    known = [(value, count) for value, count in values if value is not None]
    if len(known) < 2:
        return None
    total = sum(count for _, count in known)
    mean = math.fsum(value * count for value, count in known) / total
    return math.sqrt(math.fsum(count * (value - mean) ** 2 for value, count in known) / total)
