"""The figures of a track that show drift: over the steps, by group, by layer and module."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from safetypin.report import _words
from safetypin.report._map_metrics import DriftMap
from safetypin.report._maps import map_picture
from safetypin.report._picture import Picture
from safetypin.report._style import GRID, INK, SOFT, STRONG, light_grid
from safetypin.report._track_metrics import Drift, TrackMetrics

MAIN = "rms_units"
PAPERS = "relative_change"
# the measures that are drawn over the steps, and how their axis is called
CURVES = {
    MAIN: "mean |change| / RMS weight",
    "norm_ratio": "norm of change / of weights",
    "row_cosine": "cosine of rows",
    PAPERS: "mean |change| / |weight|",
}
UNCHANGED = {"row_cosine": 1.0}  # what a measure is before any step, where not 0
# marker and line of every group; the one in question alone has the strong colour
LOOKS: dict[str, tuple[str, str | tuple[int, tuple[int, ...]]]] = {
    "critical": ("o", "-"),
    "top_safety": ("D", "-"),
    "top_utility": ("^", (0, (5, 2))),
    "random": ("x", (0, (2, 2))),
    "matched": ("s", (0, (1, 1.5))),  # type: ignore[dict-item]
}


def colour_of(group: str) -> str:
    """Return the ink of a group: the one in question alone is strong."""
    return STRONG if group == "critical" else SOFT


def curve_picture(metrics: TrackMetrics, measure: str = MAIN) -> Picture:
    """Return one measure of every group over the steps, from that of no change at the start."""
    groups = [group.group for group in metrics.groups]
    rows = {group: _rows(metrics, group, measure) for group in groups}
    banded = banded_group(metrics) if measure == MAIN else None
    start = UNCHANGED.get(measure, 0.0)

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.13, 0.165, 0.845, 0.805))
        light_grid(axes)
        for group in sorted(groups, key=lambda group: group == "critical"):
            found = [row for row in rows[group] if row.value is not None]
            steps = [0, *(row.step for row in found)]
            values = [start, *(row.value or 0.0 for row in found)]
            marker, line = LOOKS[group]
            colour, width = colour_of(group), 1.6 if group == "critical" else 0.9
            axes.plot(
                steps, values, marker=marker, linestyle=line, color=colour, linewidth=width,
                markersize=4.5 if group == "critical" else 3.5, markevery=slice(1, None),
            )  # fmt: skip
        if banded is not None:
            _band(axes, rows[banded], colour_of(banded))
        if not start:
            axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("step")
        axes.set_ylabel(CURVES[measure])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))

    return Picture(
        name="drift-steps" if measure == MAIN else f"drift-steps-{measure.replace('_', '-')}",
        title="Drift of every group over the training steps; the numbers are in drift.parquet",
        width=4.8,
        height=3.2,
        draw=draw,
    )


def spread_picture(metrics: TrackMetrics) -> Picture:
    """Return the drift of each group in a panel of its own, with spread and expectation."""
    groups = [group.group for group in metrics.groups]
    rows = {group: _rows(metrics, group, MAIN) for group in groups}
    width = 1.0 + 1.5 * len(groups)

    def draw(figure: Figure) -> None:
        shared: Axes | None = None
        for place, group in enumerate(groups):
            box = ((0.75 + 1.5 * place) / width, 0.2, 1.32 / width, 0.66)
            axes = figure.add_axes(box, sharex=shared, sharey=shared)
            light_grid(axes)
            _panel(axes, rows[group], colour_of(group))
            axes.set_title(_words.ARMS[group], fontsize=8.5)
            axes.tick_params(labelleft=not place)
            if shared is None:
                shared = axes
                axes.set_ylabel(CURVES[MAIN])
                axes.set_xlabel("step")
        assert shared is not None
        shared.set_ylim(bottom=0)
        shared.set_xlim(left=0)
        shared.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        shared.yaxis.set_major_locator(MaxNLocator(nbins=5))

    return Picture(
        name="drift-steps-groups",
        title="Drift of each group over the training steps, with its standard deviation over the "
        "weight matrices and what was expected; the numbers are in drift.parquet",
        width=width,
        height=2.3,
        draw=draw,
    )


def _panel(axes: Axes, rows: Sequence[Drift], colour: str) -> None:
    looks: dict[str, dict[str, Any]] = {
        "value": {"color": colour, "linewidth": 1.3, "marker": "o", "markersize": 3},
        "expected": {"color": INK, "linewidth": 0.9, "linestyle": (0, (2, 1.5))},
    }
    for name, look in looks.items():
        found = [(row.step, value) for row in rows if (value := getattr(row, name)) is not None]
        axes.plot([0, *(step for step, _ in found)], [0.0, *(y for _, y in found)], **look)
    _band(axes, rows, colour)


def banded_group(metrics: TrackMetrics) -> str | None:
    """Return the group whose spread is drawn: the critical one, or the matched if that was held."""
    for group in ("critical", "matched"):
        if any(row.value is not None and row.spread for row in _rows(metrics, group, MAIN)):
            return group
    return None


def _band(axes: Axes, rows: Sequence[Drift], colour: str) -> None:
    """Draw mean and standard deviation over the matrices, at the steps that have both."""
    found = [
        (row.step, row.value, row.spread)
        for row in rows
        if row.value is not None and row.spread is not None
    ]
    axes.fill_between(
        [step for step, _, _ in found],
        [max(value - spread, 0.0) for _, value, spread in found],
        [value + spread for _, value, spread in found],
        color=colour,
        alpha=0.14,
        linewidth=0,
    )


def _rows(metrics: TrackMetrics, group: str, measure: str) -> list[Drift]:
    rows = [r for r in metrics.drift.rows if r.group == group and r.measure == measure]
    return sorted(rows, key=lambda row: row.step)


def group_picture(metrics: TrackMetrics, measure: str) -> Picture:
    """Return one measure of every group at the last step, beside what was expected."""
    step = metrics.checkpoints[-1].step
    groups = [group.group for group in metrics.groups]
    rows = {group: metrics.drift.row(step, group, measure) for group in groups}

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.29, 0.17, 0.53, 0.8))
        axes.grid(axis="x", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        for place, group in enumerate(groups):
            _group_bar(axes, place, group, rows[group], measure)
        axes.set_ylim(len(groups) - 0.45, -0.55)
        axes.set_yticks(range(len(groups)), labels=[_words.ARMS[group] for group in groups])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        if measure != "row_cosine":
            axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.set_xlabel(AXES.get(measure, measure))

    return Picture(
        name=f"drift-{measure.replace('_', '-')}",
        title=f"Drift of every group at the last step, measured as {measure}, with what was "
        "expected; the numbers are in the table below",
        width=4.8,
        height=0.62 + 0.42 * len(groups),
        draw=draw,
    )


AXES = {
    MAIN: "mean |change| / RMS weight",
    "norm_ratio": "norm of the change / norm of the weights",
    "row_cosine": "cosine of the rows",
    PAPERS: "mean |change| / |weight| (the papers')",
}


def _group_bar(axes: Axes, place: int, group: str, row: Drift | None, measure: str) -> None:
    if row is None or row.value is None:
        axes.text(0.0, place, "  not trainable", va="center", color=INK, fontsize=8.5)
        return
    if measure == "row_cosine":
        axes.plot([row.value], [place], "o", color=colour_of(group), markersize=6)
    else:
        axes.barh([place], [row.value], height=0.5, color=colour_of(group), alpha=0.85)
    if row.low is not None and row.high is not None:
        axes.plot([row.low, row.high], [place, place], color=INK, linewidth=3.2, alpha=0.35)
    if row.expected is not None:
        axes.plot([row.expected], [place], "|", color=INK, markersize=13, markeredgewidth=1.5)
    if row.p_corrected is not None:
        axes.annotate(
            _words.p_value(row.p_corrected),
            (1.0, place),
            xycoords=axes.get_yaxis_transform(),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            annotation_clip=False,
        )


def shown_map(metrics: TrackMetrics) -> DriftMap | None:
    """Return the map of the critical set, or of the matched weights if that was held."""
    maps = {found.group: found for found in metrics.drift.maps}
    for group in ("critical", "matched"):
        found = maps.get(group)
        if found and any(value is not None for row in found.value for value in row):
            return found
    return None


def map_pictures(found: DriftMap) -> tuple[Picture, Picture]:
    """Return the drift of one group in every matrix, and on the same scale what was expected."""
    grids = (found.value, found.expected)
    values = [value for grid in grids for row in grid for value in row if value is not None]
    top = max(values, default=0.0) or 1.0
    names = ("drift-map", "drift-map-expected")
    titles = (
        f"Drift of {_words.ARMS[found.group]} in every weight matrix, by layer and module",
        "Drift expected of as many weights of every matrix, by layer and module",
    )
    first, second = (
        map_picture(
            name, title, found.layers, found.modules, grid,
            spelt=lambda value: f"{value:.2g}", top=top,
        )
        for name, title, grid in zip(names, titles, grids, strict=True)
    )  # fmt: skip
    return first, second
