"""How sure the fall of a mean score is: intervals over the matrices of the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safetypin.stages._track_tables import Row

NUM_RESAMPLES = 2_000

Place = tuple[int, str]  # layer and role
Totals = NDArray[np.float64]
Sums = Mapping[Place, tuple[float, float]]  # of the scores of a set in a matrix, before and after


def with_intervals(rows: Sequence[Row], seed: int) -> list[Row]:
    """Return the rows over the whole model, with an interval of each fall of the mean.

    The interval is over matrices (they are resampled), not over prompts. `beyond_matched` is the
    fall minus that of the matched random weights; `against_matched` is the fall relative to theirs,
    1 - (after / before) / (after / before of those): the scale of a score changes with the loss
    or the activations as such, for them as well.
    """
    sums = {
        key: _matrix_sums([row for row in rows if _set_of(row) == key])
        for key in dict.fromkeys(map(_set_of, rows))
    }
    return [
        {
            **{key: value for key, value in row.items() if key not in ("level", "layer", "role")},
            "drop_interval": _interval(_falls, [sums[_set_of(row)]], seed),
            **_beside_matched(row, sums, seed),
        }
        for row in rows
        if row["level"] == "all"
    ]


def _set_of(row: Row) -> tuple[str, str, str]:
    return row["model"], row["score"], row["group"]


def _matrix_sums(rows: Sequence[Row]) -> Sums:
    """Return the sums of the scores of every matrix, before and after."""
    return {
        (row["layer"], row["role"]): (
            row["num_weights"] * row["mean_before"],
            row["num_weights"] * row["mean_after"],
        )
        for row in rows
        if row["level"] == "matrix"
    }


def _beside_matched(row: Row, sums: Mapping[Any, Sums], seed: int) -> Row:
    own, other = sums[_set_of(row)], sums.get((*_set_of(row)[:2], "matched"))
    measures = {"beyond_matched": _more, "against_matched": _relative}
    if other is None or row["group"] == "matched":
        return dict.fromkeys(measures)
    return {name: _estimate(measure, [own, other], seed) for name, measure in measures.items()}


def _falls(own: Totals) -> Totals:
    return 1 - own


def _more(own: Totals, other: Totals) -> Totals:
    return other - own


def _relative(own: Totals, other: Totals) -> Totals:
    return 1 - own / other


def _estimate(
    measure: Callable[..., Totals], sets: Sequence[Sums], seed: int
) -> dict[str, Any] | None:
    interval = _interval(measure, sets, seed)
    if interval is None:
        return None
    value = measure(*(_kept(part[None]) for part in _arrays(sets)))
    return {"value": float(value[0]), "interval": interval}


def _interval(
    measure: Callable[..., Totals], sets: Sequence[Sums], seed: int
) -> list[float] | None:
    """Return the bootstrap interval over matrices of a measure of what each set kept."""
    arrays = _arrays(sets)
    num_places = len(arrays[0])
    if num_places < 2:
        return None
    index = np.random.default_rng(seed).integers(num_places, size=(NUM_RESAMPLES, num_places))
    kept = [_kept(array[index]) for array in arrays]
    if any((part <= 0).any() or not np.isfinite(part).all() for part in kept[1:]):
        return None
    found = measure(*kept)
    if not np.isfinite(found).all():
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return [float(low), float(high)]


def _arrays(sets: Sequence[Sums]) -> list[NDArray[np.float64]]:
    """Return (matrices, 2) for each set, over the matrices in which all have members."""
    places = sorted(set.intersection(*(set(sums) for sums in sets)))
    return [np.array([sums[place] for place in places]) for sums in sets]


def _kept(sums: NDArray[np.float64]) -> Totals:
    """Return after / before of the totals over the matrices: (..., matrices, 2) to (...)."""
    totals = sums.sum(axis=-2)
    kept = np.full(totals.shape[:-1], np.nan)
    np.divide(totals[..., 1], totals[..., 0], out=kept, where=totals[..., 0] > 0)
    return kept
