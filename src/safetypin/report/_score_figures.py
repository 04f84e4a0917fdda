"""The figures of a track that show scores and sets before and after."""

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from safetypin.report import _words
from safetypin.report._drift_figures import colour_of
from safetypin.report._map_metrics import OverlapMap, ScoreMap, Values
from safetypin.report._maps import map_picture
from safetypin.report._picture import Picture
from safetypin.report._style import GRID, INK, PAPER, SOFT, STRONG, light_grid
from safetypin.report._track_metrics import Histogram, LayerDynamics, LayerOverlap, Overlap


def histogram_picture(histogram: Histogram) -> Picture:
    """Return how the scores of a group are distributed before and after."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.13, 0.2, 0.845, 0.76))
        light_grid(axes)
        axes.set_xscale("log")
        axes.stairs(histogram.before, histogram.edges, fill=True, color=SOFT, alpha=0.45)
        axes.stairs(histogram.after, histogram.edges, color=STRONG, linewidth=1.5)
        _decades(axes, histogram.edges)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("score")
        axes.set_ylabel("weights")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _words.amount(y)))

    return Picture(
        name=f"scores-{histogram.score}-{histogram.group.replace('_', '-')}",
        title=f"Distribution of the {histogram.score} scores of {_words.ARMS[histogram.group]} "
        "before and after; mean and percentiles are in the table below",
        width=4.8,
        height=2.5,
        draw=draw,
    )


def _decades(axes: Axes, edges: Sequence[float]) -> None:
    """Label a few powers of ten."""
    low, high = math.floor(math.log10(edges[0])), math.ceil(math.log10(edges[-1]))
    every = max(1, math.ceil((high - low) / 6))
    axes.set_xlim(edges[0], edges[-1])
    axes.xaxis.set_major_locator(
        FixedLocator([10.0**power for power in range(low, high + 1, every)])
    )
    axes.xaxis.set_minor_locator(LogLocator(subs=(1.0,), numticks=40))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"1e{math.log10(x):.0f}"))


def overlap_picture(rows: Sequence[Overlap]) -> Picture:
    """Return how much of every set is in the one made anew, with chance, noise and control."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.29, 0.15, 0.65, 0.82))
        axes.grid(axis="x", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        for place, row in enumerate(rows):
            colour = colour_of(row.group)
            has_control = row.control_share is not None
            if row.share is not None:
                height = 0.28 if has_control else 0.5
                axes.barh([place - 0.17 * has_control], [row.share], height=height, color=colour)
            if row.control_share is not None:
                axes.barh(
                    [place + 0.17], [row.control_share], height=0.28, facecolor=PAPER,
                    edgecolor=colour, linewidth=1.0,
                )  # fmt: skip
            for share, line in ((row.noise_share, "-"), (row.chance_share, (0, (2, 1.5)))):
                if share is not None:
                    axes.vlines(
                        [share],
                        place - 0.42,
                        place + 0.42,
                        color=INK,
                        linewidth=1.3,
                        linestyle=line,
                    )
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_yticks(range(len(rows)), labels=[_words.ARMS[row.group] for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, 1.0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f}\u00a0%"))
        axes.set_xlabel("share of the old set that is in the new one")

    return Picture(
        name="overlap",
        title="Overlap of the sets before and after, with chance level, noise floor and control; "
        "the numbers are in the table below",
        width=4.8,
        height=0.7 + 0.62 * len(rows),
        draw=draw,
    )


def overlap_layers_picture(rows: Sequence[LayerOverlap]) -> Picture:
    """Return the overlap of one set by layer."""
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
                    [row.layer for row in rows],
                    [math.nan if value is None else value for value in values],
                    color=colour, linestyle=line, linewidth=width,
                    marker="o" if name == "jaccard" else None, markersize=3.5,
                )  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.set_ylabel("Jaccard index")

    return _layers_picture(
        "overlap-layers",
        "Overlap of the safety-critical set before and after by layer, with chance level, noise "
        "floor and control; the numbers are in overlap.parquet",
        [row.layer for row in rows],
        draw,
    )


def drop_layers_picture(rows: Sequence[LayerDynamics]) -> Picture:
    """Return by layer what became of the critical set's mean score, beside that of all weights."""
    layers = [row.layer for row in rows]

    def draw(axes: Axes) -> None:
        axes.axhline(1.0, color=INK, linewidth=0.7)
        for name, colour, line in (("drop_of_all", SOFT, (0, (4, 3))), ("drop", STRONG, "-")):
            drops = [getattr(row, name) for row in rows]
            axes.plot(
                layers, [math.nan if drop is None else 1 - drop for drop in drops], color=colour,
                linestyle=line, linewidth=1.5 if name == "drop" else 0.9,
                marker="o" if name == "drop" else None, markersize=3.5,
            )  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.3g}\u00d7"))
        axes.set_ylabel("mean score after / before")

    return _layers_picture(
        "scores-layers",
        "Mean safety score of the safety-critical set after the training as a multiple of that "
        "before, by layer; the numbers are in dynamics.parquet",
        layers,
        draw,
    )


def _layers_picture(
    name: str, title: str, layers: Sequence[int], lines: Callable[[Axes], None]
) -> Picture:
    width = min(9.6, max(4.8, 1.4 + 0.15 * len(layers)))

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.68 / width, 0.18, (width - 0.8) / width, 0.78))
        light_grid(axes)
        lines(axes)
        axes.set_xlim(min(layers) - 0.6, max(layers) + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
        axes.set_xlabel("layer")

    return Picture(name=name, title=title, width=width, height=2.7, draw=draw)


def score_map_pictures(found: ScoreMap) -> list[Picture]:
    """Return the mean score of a group in every matrix before and after, on one scale."""
    grids = {"before": found.mean_before, "after": found.mean_after}
    top = _highest(*grids.values())
    return [
        map_picture(
            f"scores-map-{when}",
            f"Mean {found.score} score of {_words.ARMS[found.group]} {when} the training, by layer "
            "and module; the numbers are in dynamics.parquet",
            found.layers,
            found.modules,
            grid,
            spelt=_words.figures,
            top=top,
        )
        for when, grid in grids.items()
    ]


def overlap_map_pictures(found: OverlapMap) -> list[Picture]:
    """Return the share of the old set in the new one by matrix, and without a training."""
    grids = {"": found.share, "-noise": found.noise_share}
    about = {"": "after the training", "-noise": "of two halves of the prompts, with no training"}
    return [
        map_picture(
            f"overlap-map{name}",
            f"Share of {_words.ARMS[found.group]} that is in the set made anew, {about[name]}, by "
            "layer and module; the numbers are in overlap.parquet",
            found.layers,
            found.modules,
            grid,
            spelt=_words.share,
            top=1.0,
        )
        for name, grid in grids.items()
    ]


def _highest(*grids: Values) -> float:
    values = [value for grid in grids for row in grid for value in row if value is not None]
    return max(values, default=0.0) or 1.0
