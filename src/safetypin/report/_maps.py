"""Maps of a number by layer and module, and the overlap by layer."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator

from safetypin.report import _words
from safetypin.report._metrics import Grid, Overlap
from safetypin.report._picture import Picture
from safetypin.report._style import GRID, SOFT, STRONG, drawn, inline_svg, light_grid

Values = Sequence[Sequence[float | None]]

_RIGHT, _TOP, _BOTTOM = 0.75, 0.1, 0.5  # inches
_ROW, _LOW_ROW, _GAP, _TITLE, _WIDE = 0.27, 0.2, 0.18, 0.3, 0.92
_LEVELS = 16


def where_figure(where: Grid) -> Markup:
    """Draw the share of every weight matrix that is in the set, as layer by module."""
    return map_picture(
        "where",
        "Share of each weight matrix that is in the set, by layer and module; "
        "the numbers are in the table below the figure",
        where.layers,
        where.modules,
        where.share,
        spelt=_words.share,
    ).inline()


def map_picture(
    name: str,
    title: str,
    layers: Sequence[int],
    modules: Sequence[str],
    values: Values,
    *,
    spelt: Callable[[float], str],
    top: float | None = None,
) -> Picture:
    """Return a map of one number >= 0 for every weight matrix, as layer by module.

    One hue whose opacity is the number: 0 is bare paper, on any background.

    Args:
        name: Of the picture.
        title: Text alternative.
        layers: Blocks, the rows of `values`.
        modules: Matrices of a block, its columns.
        values: The numbers; None where there is none.
        spelt: How a number is written beside the scale.
        top: The number of the full hue; the largest one where None.
    """
    highest = top or max((value for row in values for value in row if value), default=1.0)
    left = 0.2 + 0.068 * min(30, max(map(len, modules), default=0))
    width = min(9.6, max(4.8, left + _RIGHT + 0.15 * len(layers)))
    height = _TOP + _BOTTOM + max(3, len(modules)) * _ROW

    def draw(figure: Figure) -> None:
        inner = (height - _TOP - _BOTTOM) / height
        box = (left / width, _BOTTOM / height, (width - left - _RIGHT) / width, inner)
        axes = figure.add_axes(box)
        row = MapRow(layers=layers, modules=modules, grids={"": values}, top=highest)
        _map(axes, row, values, named=True, last=True)
        bar = figure.add_axes((1 - 0.62 / width, _BOTTOM / height, 0.1 / width, inner))
        _scale(bar, highest, spelt)

    return Picture(name=name, title=title, width=width, height=height, draw=draw)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapRow:
    """Maps beside each other on one scale.

    Attributes:
        layers: Blocks, the rows of every grid.
        modules: Matrices of a block, its columns.
        grids: The numbers by what is written above them.
        top: The number of the full hue.
    """

    layers: Sequence[int]
    modules: Sequence[str]
    grids: Mapping[str, Values]
    top: float


def maps_picture(
    name: str, title: str, rows: Sequence[MapRow], *, spelt: Callable[[float], str]
) -> Picture:
    """Return maps as `map_picture` draws one, in rows of as many, each row on its own scale."""
    num_columns = len(rows[0].grids)
    longest = max(len(module) for row in rows for module in row.modules)
    left = 0.2 + 0.068 * min(30, longest)
    each = max(1.6, 0.11 * max(len(row.layers) for row in rows))
    each = min(each, (9.6 - left - _WIDE - (num_columns - 1) * _GAP) / num_columns)
    width = left + num_columns * each + (num_columns - 1) * _GAP + _WIDE
    heights = [max(3, len(row.modules)) * _LOW_ROW for row in rows]
    height = sum(heights) + len(rows) * _TITLE + _BOTTOM

    def draw(figure: Figure) -> None:
        bottom = height
        for row, tall in zip(rows, heights, strict=True):
            bottom -= tall + _TITLE
            for place, (above, values) in enumerate(row.grids.items()):
                start = left + place * (each + _GAP)
                box = (start / width, bottom / height, each / width, tall / height)
                axes = figure.add_axes(box)
                _map(axes, row, values, named=not place, last=row is rows[-1])
                axes.set_title(above, fontsize=8.5, loc="left", pad=4)
            right, inner = 1 - 0.79 / width, tall / height
            bar = figure.add_axes((right, bottom / height, 0.1 / width, inner))
            _scale(bar, row.top, spelt)

    return Picture(name=name, title=title, width=width, height=height, draw=draw)


def _map(axes: Axes, row: MapRow, values: Values, *, named: bool, last: bool) -> None:
    _tiles(axes, values, row.top)
    axes.set_xlim(-0.5, len(row.layers) - 0.5)
    axes.set_ylim(len(row.modules) - 0.5, -0.5)
    names = [_ended(module) for module in row.modules]
    axes.set_yticks(range(len(names)) if named else [], labels=names if named else [])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if last:
        _layer_ticks(axes, row.layers)
    else:
        axes.set_xticks([])


def _ended(name: str) -> str:
    """Return the end of a long module name, where the names of one block differ."""
    return name if len(name) <= 30 else f"\u2026{name[-29:]}"


def _tiles(axes: Axes, values: Values, top: float) -> None:
    """Draw one path for all matrices of a level: an 80-layer map stays small."""
    levels: dict[int | None, list[Path]] = {}
    for x, row in enumerate(values):
        for y, value in enumerate(row):
            level = None if value is None else min(_LEVELS, math.ceil(_LEVELS * value / top))
            corner = ((x - 0.5, y - 0.5), (x + 0.5, y + 0.5))
            levels.setdefault(level, []).append(_rectangle(*corner))
    for level, tiles in levels.items():
        # A matrix that does not exist is grey, never "nothing in the set".
        face = to_rgba(GRID) if level is None else to_rgba(STRONG, level / _LEVELS)
        outline = Path.make_compound_path(*tiles)
        axes.add_patch(PathPatch(outline, facecolor=face, edgecolor=GRID, linewidth=0.4))


def _rectangle(low: tuple[float, float], high: tuple[float, float]) -> Path:
    corners = [low, (high[0], low[1]), high, (low[0], high[1]), low]
    return Path(corners, closed=True)


def overlap_figure(overlap: Overlap, name: str = "overlap") -> Markup:
    """Draw the overlap of safety and utility tops by layer, with chance and noise floor."""
    rows = overlap.by_layer
    layers = [row.layer for row in rows]
    width = min(9.6, max(4.8, 1.4 + 0.15 * len(rows)))
    with drawn(width, 2.7) as figure:
        axes = figure.add_axes((0.5 / width, 0.18, (width - 0.6) / width, 0.77))
        light_grid(axes)
        floor = _gapped(row.noise_floor for row in rows)
        shared = _gapped(row.jaccard for row in rows)
        axes.plot(layers, floor, "s-", color=SOFT, markersize=3.2, linewidth=0.9)
        axes.plot(
            layers,
            _gapped(row.chance for row in rows),
            color=SOFT,
            linewidth=0.9,
            linestyle=(0, (4, 3)),
        )
        axes.plot(layers, shared, "o-", color=STRONG, markersize=4.5, linewidth=1.4)
        highest = max([0.05, *(max(row.jaccard or 0, row.noise_floor or 0) for row in rows)])
        axes.set_ylim(0, min(1.02, 1.12 * highest))
        axes.set_xlim(min(layers, default=0) - 0.6, max(layers, default=0) + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
        axes.set_xlabel("layer")
        axes.set_ylabel("Jaccard index")
        return inline_svg(
            figure,
            name=name,
            title="Overlap of safety and utility tops by layer, with chance level and noise floor; "
            "the numbers are in the table below the figure",
        )


def _gapped(values: Iterable[float | None]) -> list[float]:
    """Return the numbers, NaN where there is none: a line has a gap there."""
    return [math.nan if value is None else value for value in values]


def _layer_ticks(axes: Axes, layers: Sequence[int]) -> None:
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100) if len(layers) <= 17 * step)
    shown = [i for i, layer in enumerate(layers) if layer % every == 0]
    axes.set_xticks(shown, labels=[str(layers[i]) for i in shown])
    axes.set_xlabel("layer")


def _scale(bar: Axes, top: float, spelt: Callable[[float], str]) -> None:
    for level in range(1, _LEVELS + 1):
        low, high = (top * step / _LEVELS for step in (level - 1, level))
        bar.axhspan(low, high, facecolor=to_rgba(STRONG, level / _LEVELS), linewidth=0)
    bar.set_ylim(0, top)
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.tick_params(length=0)
    bar.set_yticks([0, top / 2, top])
    bar.yaxis.set_major_formatter(FuncFormatter(lambda y, _: spelt(y)))
    for spine in bar.spines.values():
        spine.set_visible(True)
