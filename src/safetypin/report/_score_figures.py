"""The figures of a track that show scores and sets before and after."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from safetypin.report import _words
from safetypin.report._drift_figures import colour_of
from safetypin.report._picture import Picture
from safetypin.report._style import GRID, INK, PAPER, SOFT, STRONG, light_grid
from safetypin.report._track_metrics import AllDynamics, Histogram, Overlap

MODELS = ("tuned", "control", "noise")


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


def ranks_picture(dynamics: AllDynamics) -> Picture:
    """Return how far every group's mean rank moved, by each score, beside noise and control."""
    scores = list(dict.fromkeys(row.score for row in dynamics.rows))
    groups = list(dict.fromkeys(row.group for row in dynamics.rows))
    width, height = 1.85 + 2.6 * len(scores), 0.95 + 0.42 * len(groups)

    def draw(figure: Figure) -> None:
        shared: Axes | None = None
        for column, score in enumerate(scores):
            box = ((1.75 + 2.6 * column) / width, 0.5 / height, 2.35 / width, 1 - 0.85 / height)
            axes = figure.add_axes(box, sharex=shared)
            shared = shared or axes
            axes.grid(axis="x", color=GRID, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.axvline(0, color=INK, linewidth=0.7)
            for place, group in enumerate(groups):
                _rank_bars(axes, place, dynamics, group, score)
            axes.set_ylim(len(groups) - 0.45, -0.55)
            names = [] if column else [_words.ARMS[group] for group in groups]
            axes.set_yticks(range(len(names)), labels=names)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.set_title(f"by {score} score", fontsize=8.5, loc="left")
            axes.set_xlabel("change of mean percentile, points")
        assert shared is not None
        shared.xaxis.set_major_locator(MaxNLocator(nbins=5))
        shared.xaxis.set_major_formatter(
            FuncFormatter(lambda x, _: f"{x:+.3g}".replace("-", "\u2212") if x else "0")
        )

    return Picture(
        name="rank-changes",
        title="Change of the mean rank of every group in its matrices, with noise floor and "
        "control; the numbers are in the tables below",
        width=width,
        height=height,
        draw=draw,
    )


def _rank_bars(axes: Axes, place: int, dynamics: AllDynamics, group: str, score: str) -> None:
    found = {model: dynamics.row(group, model=model, score=score) for model in MODELS}
    moved = {model: 100 * (row.rank_after - row.rank_before) for model, row in found.items() if row}
    colour, has_control = colour_of(group), "control" in moved
    if "tuned" in moved:
        middle, height = place - 0.17 * has_control, 0.28 if has_control else 0.5
        axes.barh([middle], [moved["tuned"]], height=height, color=colour)
    if has_control:
        axes.barh(
            [place + 0.17], [moved["control"]], height=0.28, facecolor=PAPER, edgecolor=colour,
            linewidth=1.0,
        )  # fmt: skip
    if "noise" in moved:
        axes.vlines([moved["noise"]], place - 0.42, place + 0.42, color=INK, linewidth=1.3)
