"""The figures of a track that show scores and sets by layer, and by layer and module."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from safetypin.report import _words
from safetypin.report._map_metrics import OverlapMap, ScoreMap, Values
from safetypin.report._maps import MapRow, maps_picture
from safetypin.report._picture import Picture
from safetypin.report._style import INK, SOFT, STRONG, light_grid
from safetypin.report._track_metrics import LayerDynamics, LayerOverlap

Draw = Callable[[Axes], None]
# a heading, the layers, and what draws them
Panel = tuple[str, Sequence[int], Draw]
Row = TypeVar("Row", LayerDynamics, LayerOverlap)

SETS = ("critical", "top_safety", "top_utility")
# the score that a set was chosen by
OWN_SCORE = {"critical": "safety", "top_safety": "safety", "top_utility": "utility"}

_LEFT, _GAP, _HEAD, _FOOT, _TALL = 0.75, 0.2, 0.28, 0.5, 1.75  # inches


def overlap_layers_picture(rows: Sequence[LayerOverlap]) -> Picture:
    """Return the overlap of every set by layer, one beside the other."""
    found = _by_group(rows)
    panels = [
        (_words.ARMS[group], [row.layer for row in part], _overlap_lines(part))
        for group, part in found.items()
    ]
    return _layers_picture(
        "overlap-layers",
        "Overlap of each set before and after by layer, with chance level, noise floor and "
        "control; the numbers are in overlap.parquet",
        [panels],
        ["Jaccard index"],
    )


def _overlap_lines(rows: Sequence[LayerOverlap]) -> Draw:
    lines: list[tuple[str, str, str | tuple[int, tuple[int, int]], float]] = [
        ("noise_jaccard", SOFT, "-", 0.9),
        ("control_jaccard", INK, (0, (1, 1)), 0.9),
        ("chance_jaccard", SOFT, (0, (4, 3)), 0.9),
        ("jaccard", STRONG, "-", 1.5),
    ]

    def draw(axes: Axes) -> None:
        for name, colour, line, width in lines:
            values = [getattr(row, name) for row in rows]
            if any(value is not None for value in values):
                axes.plot(
                    [row.layer for row in rows], _gapped(values), color=colour, linestyle=line,
                    linewidth=width, marker="o" if name == "jaccard" else None, markersize=3,
                )  # fmt: skip

    return draw


def drop_layers_picture(rows: Sequence[LayerDynamics]) -> Picture:
    """Return by layer what became of every set's mean scores, beside those of all weights."""
    scores = list(dict.fromkeys(row.score for row in rows))
    panels = [
        [
            (_words.ARMS[group], [row.layer for row in part], _drop_lines(part))
            for group, part in _by_group([row for row in rows if row.score == score]).items()
        ]
        for score in scores
    ]
    return _layers_picture(
        "scores-layers",
        "Mean scores of each set after the training as a multiple of those before, by layer; the "
        "numbers are in dynamics.parquet",
        panels,
        [f"{score}, after / before" for score in scores],
    )


def _drop_lines(rows: Sequence[LayerDynamics]) -> Draw:
    def draw(axes: Axes) -> None:
        axes.axhline(1.0, color=INK, linewidth=0.7)
        for name, colour, line in (("drop_of_all", SOFT, (0, (4, 3))), ("drop", STRONG, "-")):
            drops = _gapped(getattr(row, name) for row in rows)
            axes.plot(
                [row.layer for row in rows], [1 - drop for drop in drops], color=colour,
                linestyle=line, linewidth=1.5 if name == "drop" else 0.9,
                marker="o" if name == "drop" else None, markersize=3,
            )  # fmt: skip
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.3g}\u00d7"))

    return draw


def _layers_picture(
    name: str, title: str, rows: Sequence[Sequence[Panel]], labels: Sequence[str]
) -> Picture:
    """Return panels by layer: one row for each label, on one scale."""
    num_columns = max(map(len, rows))
    most = max(len(layers) for row in rows for _, layers, _ in row)
    room = (9.6 - _LEFT - num_columns * _GAP) / num_columns
    each = min(room, max(2.0, 0.15 * most) if num_columns > 1 else max(4.0, 0.15 * most))
    width = _LEFT + num_columns * (each + _GAP)
    height = len(rows) * (_TALL + _HEAD) + _FOOT

    def draw(figure: Figure) -> None:
        for place, (row, label) in enumerate(zip(rows, labels, strict=True)):
            shared: Axes | None = None
            bottom = height - (place + 1) * (_TALL + _HEAD)
            for column, (above, layers, lines) in enumerate(row):
                start = _LEFT + column * (each + _GAP)
                box = (start / width, bottom / height, each / width, _TALL / height)
                axes = figure.add_axes(box, sharey=shared)
                light_grid(axes)
                lines(axes)
                axes.set_xlim(min(layers) - 0.6, max(layers) + 0.6)
                axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
                is_last = place == len(rows) - 1
                axes.tick_params(labelleft=not column, labelbottom=is_last)
                axes.set_title(above, fontsize=8.5, loc="left", pad=4)
                if is_last:
                    axes.set_xlabel("layer")
                if not column:
                    shared = axes
                    axes.set_ylabel(label)
            # at the end: it fixes the other end too, and every panel has a say in that
            assert shared is not None
            shared.set_ylim(bottom=0)

    return Picture(name=name, title=title, width=width, height=height, draw=draw)


def score_maps_picture(maps: Sequence[ScoreMap]) -> Picture | None:
    """Return the mean score of every set in every matrix, before and after on one scale."""
    found = [
        one for group in SETS for one in maps
        if (one.group, one.score) == (group, OWN_SCORE[group])
    ]  # fmt: skip
    rows = [
        MapRow(
            layers=one.layers,
            modules=one.modules,
            grids={
                f"{_words.ARMS[one.group]}, {one.score} score before": one.mean_before,
                "after": one.mean_after,
            },
            top=_highest(one.mean_before, one.mean_after),
        )
        for one in found
    ]
    if not rows:
        return None
    return maps_picture(
        "scores-map",
        "Mean score of each set before and after the training, by layer and module; the numbers "
        "are in dynamics.parquet",
        rows,
        spelt=lambda value: _words.figures(value, 2),
    )


def overlap_maps_picture(maps: Sequence[OverlapMap]) -> Picture | None:
    """Return the share of every old set in the new one by matrix, and without a training."""
    rows = [
        MapRow(
            layers=one.layers,
            modules=one.modules,
            grids={_words.ARMS[one.group]: one.share, "noise floor": one.noise_share},
            top=1.0,
        )
        for one in maps
    ]
    if not rows:
        return None
    return maps_picture(
        "overlap-map",
        "Share of each set that is in the set made anew after the training, and of two halves of "
        "the prompts with no training, by layer and module; the numbers are in overlap.parquet",
        rows,
        spelt=_words.share,
    )


def _by_group(rows: Iterable[Row]) -> Mapping[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def _gapped(values: Iterable[float | None]) -> list[float]:
    """Return the numbers, NaN where there is none: a line has a gap there."""
    return [math.nan if value is None else value for value in values]


def _highest(*grids: Values) -> float:
    values = [value for grid in grids for row in grid for value in row if value is not None]
    return max(values, default=0.0) or 1.0
