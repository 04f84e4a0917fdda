"""Figures of units: shares by layer, concentration, and a map that stays legible at 36 x 9,728."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from safetypin.report import _words
from safetypin.report._picture import Picture
from safetypin.report._style import INK, SOFT, STRONG, light_grid

DYNAMIC = 3.0  # decades of the colour scale
TICKS = 5  # at most so many units are numbered below a map
RED = to_rgba("#b8400e")  # inside a bitmap no CSS variable holds

_DOTTED = (0, (1.3, 1.3))


def layers_picture(rows: Sequence[Any], fraction: float) -> Picture:
    """Return the share of each layer that is in the set."""
    layers = [row.layer for row in rows]
    shares = [row.num_selected / row.num_units for row in rows]

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.09, 0.18, 0.89, 0.78))
        light_grid(axes)
        axes.bar(layers, shares, color=STRONG, width=0.75)
        axes.axhline(fraction, color=INK, linewidth=0.9, linestyle=_DOTTED)
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _words.share(y)))
        axes.set_ylim(0, min(1.0, 1.1 * max([*shares, fraction])) or 1.0)

    return Picture(
        name="layers",
        title="Share of each layer in the set; the numbers are in the table below",
        width=7.2,
        height=2.6,
        draw=draw,
    )


def sparsity_picture(points: Sequence[Any], fraction: float) -> Picture:
    """Return what share of all squared scores the top share of units holds."""
    shares = [point.fraction for point in points]
    energies = [point.energy for point in points]

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.16, 0.17, 0.81, 0.79))
        light_grid(axes)
        axes.set_xscale("log")
        axes.plot(shares, shares, color=SOFT, linewidth=1.0, linestyle=_DOTTED)
        axes.plot(shares, energies, color=STRONG, linewidth=1.6)
        if fraction > 0:
            held = float(np.interp(fraction, shares, energies))
            axes.plot([fraction], [held], "o", color=STRONG, markersize=6)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("share of units, highest scores first")
        axes.set_ylabel("share of squared scores")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda x, _: _words.share(x)))

    return Picture(
        name="sparsity", title="Concentration of the scores", width=4.8, height=2.9, draw=draw
    )


def map_pictures(
    layers: Sequence[int],
    by_place: list[list[float]],
    by_rank: list[list[float]],
    num_units: int,
) -> tuple[Picture, Picture]:
    """Return the scores as layer by unit, in bins, and as layer by rank.

    Args:
        layers: Of the rows.
        by_place: Scores of each layer's units in bins, from unit 0 on.
        by_rank: The same sorted.
        num_units: Units of a layer, which the bins of a row stand for.
    """
    top = max((value for row in by_place for value in row), default=0.0)
    return (
        _map("map-place", "Scores by layer and unit", "unit", layers, by_place, num_units, top),
        _map(
            "map-rank",
            "Scores by layer and rank",
            "units, sorted in each layer",
            layers,
            by_rank,
            num_units,
            top,
        ),
    )


def _map(
    name: str,
    title: str,
    label: str,
    layers: Sequence[int],
    rows: list[list[float]],
    num_units: int,
    top: float,
) -> Picture:
    height = 0.75 + max(1.4, 0.1 * len(layers))

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.07, 0.5 / height, 0.83, (height - 0.6) / height))
        _paint(axes, rows, top)
        axes.set_yticks(*_ticks(layers))
        axes.set_ylabel("layer")
        columns, units = unit_ticks(num_units, max(map(len, rows)))
        axes.set_xticks(columns, labels=[f"{unit:,}" for unit in units])
        axes.tick_params(axis="x", length=3)
        axes.set_xlabel(label)
        bar = figure.add_axes((0.925, 0.5 / height, 0.014, (height - 0.6) / height))
        _scale(bar, top)

    return Picture(name=name, title=title, width=7.6, height=height, draw=draw)


def _ticks(layers: Sequence[int]) -> tuple[list[int], list[str]]:
    every = next(step for step in (1, 2, 5, 10, 20, 50) if len(layers) <= 20 * step)
    shown = [place for place, layer in enumerate(layers) if layer % every == 0]
    return shown, [str(layers[place]) for place in shown]


def unit_ticks(num_units: int, num_columns: int) -> tuple[list[float], list[int]]:
    """Return a few round numbers of units, and the column of a map that each is in the middle of.

    The columns divide the units evenly, so unit u of n lies (u + 1/2) / n along the axis.
    """
    locator = MaxNLocator(nbins=TICKS, steps=[1, 2, 2.5, 4, 5, 10], integer=True)
    found = [round(tick) for tick in locator.tick_values(0, max(1, num_units - 1))]
    units = [unit for unit in found if 0 <= unit < num_units]
    return [(unit + 0.5) / num_units * num_columns - 0.5 for unit in units], units


def strength(value: float, top: float) -> float:
    """Return how strong a score is drawn: 0 at a thousandth of the top and below, 1 at the top."""
    if value <= 0 or top <= 0:
        return 0.0
    return max(0.0, 1 + math.log10(value / top) / DYNAMIC)


def _paint(axes: Axes, rows: list[list[float]], top: float) -> None:
    """Draw one bitmap: a path for each point would be megabytes."""
    width = max(map(len, rows))
    pixels = np.zeros((len(rows), width, 4))
    pixels[..., :3] = RED[:3]
    for place, row in enumerate(rows):
        spread = np.interp(np.linspace(0, 1, width), np.linspace(0, 1, len(row)), row)
        pixels[place, :, 3] = [strength(float(value), top) for value in spread]
    axes.imshow(pixels, aspect="auto", interpolation="nearest", origin="lower")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)


def _scale(bar: Axes, top: float, spelt: Callable[[float], str] = _words.figures) -> None:
    steps = np.linspace(0, 1, 64)
    pixels = np.zeros((64, 1, 4))
    pixels[..., :3], pixels[:, 0, 3] = RED[:3], steps
    bar.imshow(pixels, aspect="auto", origin="lower", extent=(0, 1, -DYNAMIC, 0))
    bar.set_xticks([])
    bar.yaxis.tick_right()
    ticks = [-3, -2, -1, 0]
    bar.set_yticks(ticks, labels=[spelt(top * 10.0**tick) if top else "0" for tick in ticks])
    bar.tick_params(length=0)
    for spine in bar.spines.values():
        spine.set_visible(False)
