"""The figures of a fine-tune: its rates before and after, and its loss."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from safetypin.artifacts import Rate
from safetypin.report import _words
from safetypin.report._picture import Picture
from safetypin.report._style import GRID, INK, PAPER, SOFT, STRONG, light_grid
from safetypin.report._tune_metrics import Side, Training

_SMOOTHED = 10  # points in a running mean of the loss


def rates_picture(before: Side, after: Side) -> Picture:
    """Return every rate before and after, with 95 % Wilson intervals."""
    pairs = [
        ("complied (ASR)", before.asr, None if after.destroyed else after.asr),
        ("degenerate", before.degenerate, after.degenerate),
        ("harmless refused", before.harmless_refused, after.harmless_refused),
        ("borderline refused", before.borderline_refused, after.borderline_refused),
    ]

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.235, 0.15, 0.72, 0.83))
        axes.grid(axis="x", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        for place, (_, first, second) in enumerate(pairs):
            _arrow(axes, place, first, second)
            _point(axes, place - 0.16, first, colour=SOFT, face=PAPER)
            _point(axes, place + 0.16, second, colour=STRONG, face=STRONG)
        axes.set_ylim(len(pairs) - 0.45, -0.55)
        axes.set_xlim(-0.02, 1.02)
        axes.set_yticks(range(len(pairs)), labels=[label for label, _, _ in pairs])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f}\u00a0%"))

    return Picture(
        name="rates",
        title="Rates before and after the fine-tune; the numbers are in the table below",
        width=4.8,
        height=2.9,
        draw=draw,
    )


def _arrow(axes: Axes, place: int, before: Rate | None, after: Rate | None) -> None:
    start, end = (rate.value if rate else None for rate in (before, after))
    if start is None or end is None:
        axes.text(1.0, place + 0.16, f"after: {_words.NONE}", ha="right", va="center", color=INK)
    else:
        axes.plot([start, end], [place - 0.16, place + 0.16], color=SOFT, linewidth=0.8, zorder=1)


def _point(axes: Axes, place: float, rate: Rate | None, *, colour: str, face: str) -> None:
    if rate is None or rate.value is None or rate.interval is None:
        return
    axes.hlines([place], *rate.interval, color=colour, linewidth=1.2)
    axes.plot(
        [rate.value], [place], "o", color=colour, markerfacecolor=face, markersize=6, clip_on=False
    )


def loss_picture(training: Training) -> Picture:
    """Return the loss over the steps, and its running mean where there are points enough."""
    steps = [step for step, _, _ in training.curve]
    losses = [loss for _, loss, _ in training.curve]

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.115, 0.165, 0.86, 0.81))
        light_grid(axes)
        means = running_mean(losses, _SMOOTHED)
        style = "-" if means else "o-"
        axes.plot(
            steps, losses, style, color=SOFT if means else STRONG, linewidth=0.8, markersize=3
        )
        if means:
            axes.plot(steps[_SMOOTHED - 1 :], means, color=STRONG, linewidth=1.6)
        axes.set_xlabel("step")
        axes.set_ylabel("loss per token")
        axes.set_ylim(0, 1.06 * max([loss for loss in losses if math.isfinite(loss)], default=1.0))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))

    return Picture(
        name="loss",
        title="Training loss by step; its first and last values are in the text beside it",
        width=4.8,
        height=2.9,
        draw=draw,
    )


def running_mean(values: list[float], width: int) -> list[float]:
    """Return means over `width` values in a row; none where there are under three such spans."""
    if len(values) < 3 * width:
        return []
    return [sum(values[i : i + width]) / width for i in range(len(values) - width + 1)]
