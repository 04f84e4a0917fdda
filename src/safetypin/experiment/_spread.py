"""The spread of a number over the seeds of a training."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy import stats

Bounds = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """A number in several trainings that differ in their seed.

    Attributes:
        values: In the order of the seeds; None where a run has none.
        within: Each run's own 95 % interval; None where it has none.
    """

    values: tuple[float | None, ...]
    within: tuple[Bounds | None, ...] = ()

    @property
    def known(self) -> list[float]:
        """The values that there are."""
        return [value for value in self.values if value is not None]

    @property
    def mean(self) -> float | None:
        """Mean over the runs."""
        return statistics.fmean(self.known) if self.known else None

    @property
    def sd(self) -> float | None:
        """Standard deviation over the runs; None for fewer than two."""
        return statistics.stdev(self.known) if len(self.known) > 1 else None

    @property
    def interval(self) -> Bounds | None:
        """Student's 95 % interval of the mean over the runs; None for fewer than two."""
        if self.mean is None or self.sd is None:
            return None
        count = len(self.known)
        half = float(stats.t.ppf(0.975, count - 1)) * self.sd / math.sqrt(count)
        return self.mean - half, self.mean + half

    @property
    def whole(self) -> Bounds | None:
        """The union of Student's interval and of every run's own; None where any is missing."""
        parts = [self.interval, *self.within]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or len(self.known) < len(self.values):
            return None
        return min(low for low, _ in known), max(high for _, high in known)

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as JSON values."""
        return {
            "values": list(self.values),
            "mean": self.mean,
            "sd": self.sd,
            "interval": self.interval and list(self.interval),
            "whole": self.whole and list(self.whole),
        }


def spread(values: Sequence[float | int | None], within: Sequence[Any] = ()) -> Spread:
    """Return the spread of values, each with its own interval `[low, high]` or None."""
    bounds = tuple(None if one is None else (float(one[0]), float(one[1])) for one in within)
    numbers = tuple(None if value is None else float(value) for value in values)
    return Spread(values=numbers, within=bounds)
