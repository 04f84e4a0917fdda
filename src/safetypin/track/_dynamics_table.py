"""The rows of a table of score dynamics."""

import dataclasses

from safetypin.track._cells import level_of

PERCENTILES = (5, 25, 50, 75, 95)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicsRow:
    """The scores of one group in one part of the model, before and after.

    Attributes:
        group: Name of the group.
        layer: Number of the block; None for all, or outside the blocks.
        role: Place in the block; None for all.
        num_weights: Members.
        mean_before, mean_after: Mean score.
        sd_before, sd_after: Standard deviation of the scores.
        percentiles_before, percentiles_after: At `PERCENTILES`.
        drop: Share of the mean score that was lost, below 0 where it rose; None where it was 0.
        drop_of_all: The same of as many average weights of the same matrices: what happened to
            the score as such.
        share_lower: Share of the members whose score fell.
        rank_before, rank_after: Mean over the members of the share of their matrix that scores
            lower, ties counted half.
        rank_change_sd: Standard deviation of the members' changes of that share.
    """

    group: str
    layer: int | None
    role: str | None
    num_weights: int
    mean_before: float
    mean_after: float
    sd_before: float
    sd_after: float
    percentiles_before: tuple[float, ...]
    percentiles_after: tuple[float, ...]
    drop: float | None
    drop_of_all: float | None
    share_lower: float
    rank_before: float
    rank_after: float
    rank_change_sd: float

    @property
    def rank_change(self) -> float:
        """Mean change of the members' ranks, in [-1, 1]."""
        return self.rank_after - self.rank_before

    def to_json(self) -> dict[str, object]:
        """Return one flat row; percentiles as `p05_before`, `p05_after` and so on."""
        row = {"level": level_of((self.layer, self.role)), **dataclasses.asdict(self)}
        for when in ("before", "after"):
            values = row.pop(f"percentiles_{when}")
            row |= {f"p{p:02}_{when}": v for p, v in zip(PERCENTILES, values, strict=True)}
        return row | {"rank_change": self.rank_change}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histogram:
    """How the scores of one group are distributed before and after, on the same bins.

    Attributes:
        group: Name of the group.
        layer: Number of the block; None for all.
        role: Place in the block; None for all.
        edges: Ends of the bins, `BINS_PER_DECADE` a factor of ten; one more than bins.
        before, after: Members in each bin.
        zeros_before, zeros_after: Members whose score is 0, which no bin holds.
    """

    group: str
    layer: int | None
    role: str | None
    edges: tuple[float, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    zeros_before: int
    zeros_after: int

    def to_json(self) -> dict[str, object]:
        """Return all fields."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicsTable:
    """What became of the scores.

    Attributes:
        rows: By group and part of the model: in all, by layer, by role, by both.
        histograms: By group: in all, by layer, by role.
        notes: What must be said beside the numbers.
    """

    rows: tuple[DynamicsRow, ...]
    histograms: tuple[Histogram, ...]
    notes: tuple[str, ...]

    def find(
        self, group: str = "set", *, layer: int | None = None, role: str | None = None
    ) -> DynamicsRow:
        """Return one row.

        Raises:
            KeyError: There is none.
        """
        for row in self.rows:
            if (row.group, row.layer, row.role) == (group, layer, role):
                return row
        raise KeyError(f"no row of {group}, layer {layer}, role {role}")

    def to_rows(self) -> list[dict[str, object]]:
        """Return the rows as JSON values."""
        return [row.to_json() for row in self.rows]
