"""Numbers of every weight matrix as layer by module, for the heat maps of a track."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safetypin.stages._track_findings import MEASURE
from safetypin.stages._track_tables import Row

# of every group: the layers and modules that its set is shown by
Where = Mapping[str, Mapping[str, Any]]
SETS = ("critical", "top_safety", "top_utility")  # those that are cut by scores
FOLLOWED = (*SETS, "matched")  # of the scores; the sets made anew have no matched weights


def drift_maps(where: Where, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return for every group the drift of each matrix, and what was expected there."""
    names = ("value", "expected", "num_weights", "num_trainable")
    return [
        {"group": group, **_grids(where[group], rows, names, _is(group, measure=MEASURE))}
        for group in where
    ]


def score_maps(where: Where, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the mean scores of each matrix's members before and after."""
    names = ("mean_before", "mean_after", "num_weights")
    return [
        {
            "group": group,
            "score": score,
            **_grids(where[group], rows, names, _is(group, model="tuned", score=score)),
        }
        for group in FOLLOWED
        if group in where
        for score in dict.fromkeys(row["score"] for row in rows)
    ]


def overlap_maps(where: Where, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the share of each matrix's old set that is in the new one, and the noise floor."""
    names = ("share", "noise_share", "num_before")
    groups = dict.fromkeys(row["group"] for row in rows)
    return [
        {"group": group, **_grids(where[group], rows, names, _is(group))}
        for group in groups
        if group in where
    ]


def _is(group: str, **wanted: str) -> Callable[[Row], bool]:
    return lambda row: (
        row["group"] == group and all(row[key] == value for key, value in wanted.items())
    )


def _grids(
    where: Mapping[str, Any],
    rows: Sequence[Row],
    names: Sequence[str],
    is_wanted: Callable[[Row], bool],
) -> dict[str, Any]:
    """Return layers, modules, and a grid of each number: None where there is no such matrix."""
    layers, modules = where["layers"], where["modules"]
    places = {
        (row["layer"], row["role"].rpartition(".")[2]): row
        for row in rows
        if row["level"] == "matrix" and is_wanted(row)
    }
    empty: Row = {}
    found = [[places.get((layer, module), empty) for module in modules] for layer in layers]
    grids = {name: [[row.get(name) for row in line] for line in found] for name in names}
    return {"layers": layers, "modules": modules, **grids}
