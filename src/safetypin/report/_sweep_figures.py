"""Figure 2 of Wei et al. with what it lacked: controls, intervals, and which points are ruins."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from safetypin.report._picture import Picture
from safetypin.report._style import GRID, INK, PAPER, SOFT, light_grid
from safetypin.report._sweep_metrics import (
    SweepCell,
    SweepMethod,
    SweepMetrics,
    Untouched,
)

# Okabe and Ito's colours without black and yellow, then Tol's; each has a marker too
COLOURS = (
    "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f3c8d",
    "#882255", "#44aa99", "#999933", "#332288",
)  # fmt: skip
MARKERS = "os^Dv<>Pph*"
CONTROL = "x"
MOST = 100.0  # a perplexity ratio beyond stands at the edge
VANILLA = "vanilla"
UNTOUCHED, NO_CHANGE = "--", "untouched, with its interval"

Level = tuple[float, tuple[float, float] | None]
Point = tuple[float, float, tuple[float, float] | None]
ByCell = Callable[[SweepCell], Point | None]


def utility_picture(metrics: SweepMetrics) -> Picture:
    """Return the ASR against what the change cost in language, one panel an attack."""
    return _against(
        metrics,
        "utility",
        "Attack success against perplexity, every cell of the sweep; the numbers are in the "
        "table of all cells",
        _cost_point,
        _cost_axis,
    )


def accuracy_picture(metrics: SweepMetrics) -> Picture | None:
    """Return the ASR against mean zero-shot accuracy, as Wei et al. draw it; None without tasks."""
    untouched = metrics.baseline.zero_shot_mean
    if untouched is None:
        return None

    def axis(axes: Axes) -> None:
        axes.axvline(untouched.value, color=GRID, linewidth=0.8, zorder=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f}\u00a0%"))
        axes.set_xlabel("mean zero-shot accuracy")

    return _against(
        metrics,
        "accuracy",
        "Attack success against mean zero-shot accuracy, every cell of the sweep; the numbers are "
        "in the tables of the paper's form",
        _accuracy_point,
        axis,
    )


def _against(
    metrics: SweepMetrics,
    name: str,
    title: str,
    point: Callable[..., Point | None],
    axis: Callable[[Axes], None],
) -> Picture:
    """Return the ASR against what else the change did, one panel an attack."""
    attacks = [VANILLA, *metrics.baseline.attacks]
    columns = 2 if len(attacks) in (2, 4) else min(len(attacks), 3)
    rows = math.ceil(len(attacks) / columns)

    def draw(figure: Figure) -> None:
        for place, attack in enumerate(attacks):
            axes = figure.add_subplot(rows, columns, place + 1)
            _panel(axes, metrics, attack, partial(point, attack=attack))
            axis(axes)
            axes.set_title(_attack_title(metrics, attack), fontsize=9, loc="left")
        _legend(figure, metrics)

    return Picture(
        name=name,
        title=title,
        width=3.1 * columns + 0.3,
        height=2.7 * rows + 0.18 * _legend_rows(metrics) + 0.3,
        draw=draw,
    )


def size_picture(metrics: SweepMetrics) -> Picture:
    """Return the ASR against the share that is removed: a row an attack, a column a unit."""
    units = list(dict.fromkeys(cell.removed.unit for cell in metrics.cells))
    attacks = [VANILLA, *metrics.baseline.attacks]

    def draw(figure: Figure) -> None:
        for row, attack in enumerate(attacks):
            for column, unit in enumerate(units):
                place = row * len(units) + column + 1
                axes = figure.add_subplot(len(attacks), len(units), place)
                _panel(axes, metrics, attack, partial(_size_point, attack=attack, unit=unit))
                _size_axis(axes)
                axes.set_title(_attack_title(metrics, attack), fontsize=9, loc="left")
                if row == len(attacks) - 1:
                    axes.set_xlabel(f"share of {unit} removed")
        _legend(figure, metrics)

    return Picture(
        name="size",
        title="Attack success against the share removed, every cell of the sweep; the numbers are "
        "in the table of all cells",
        width=3.1 * len(units) + 0.3,
        height=2.2 * len(attacks) + 0.18 * _legend_rows(metrics) + 0.5,
        draw=draw,
    )


def _attack_title(metrics: SweepMetrics, attack: str) -> str:
    if attack == VANILLA:
        return "bare request"
    count = metrics.baseline.attacks[attack].num_variants
    return attack if count == 1 else f"{attack}, mean of {count}"


def _rate_of(part: SweepCell | Untouched, attack: str) -> Level | None:
    """Return an ASR with its interval; of a destroyed model what the judge would say of it."""
    if attack != VANILLA:
        return part.attacks[attack].as_judged
    rate = part.asr_as_judged if isinstance(part, SweepCell) else part.asr
    return None if rate is None or rate.value is None else (rate.value, rate.interval)


def _is_hollow(cell: SweepCell, attack: str) -> bool:
    """Whether a cell is destroyed, or no longer speaks under this attack."""
    return cell.destroyed or (attack != VANILLA and cell.attacks[attack].mean is None)


def _cost_point(cell: SweepCell, attack: str) -> Point | None:
    rate = _rate_of(cell, attack)
    if rate is None:
        return None
    ratio = MOST if cell.perplexity_ratio is None else min(cell.perplexity_ratio, MOST)
    return ratio, rate[0], rate[1]


def _accuracy_point(cell: SweepCell, attack: str) -> Point | None:
    rate, mean = _rate_of(cell, attack), cell.zero_shot_mean
    return None if rate is None or mean is None else (mean.value, rate[0], rate[1])


def _size_point(cell: SweepCell, attack: str, unit: str) -> Point | None:
    rate = _rate_of(cell, attack)
    if rate is None or cell.removed.unit != unit:
        return None
    return cell.removed.share, rate[0], rate[1]


def _panel(axes: Axes, metrics: SweepMetrics, attack: str, point: ByCell) -> None:
    light_grid(axes)
    _untouched(axes, _rate_of(metrics.baseline, attack))
    looks = _looks(metrics.methods)
    for cell in sorted(metrics.cells, key=lambda cell: cell.like is None):  # controls below
        if (found := point(cell)) is not None:
            colour, marker = looks[cell.method]
            is_control, is_hollow = cell.like is not None, _is_hollow(cell, attack)
            _mark(axes, found, colour, marker, is_control=is_control, is_hollow=is_hollow)
    axes.set_ylim(-0.04, 1.04)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f}\u00a0%"))


def _untouched(axes: Axes, level: Level | None) -> None:
    if level is None:
        return
    value, interval = level
    if interval is not None:
        axes.axhspan(*interval, color=INK, alpha=0.06, linewidth=0, zorder=0.5)
    axes.axhline(value, color=INK, linewidth=0.9, linestyle=UNTOUCHED, zorder=0.6)


def _mark(
    axes: Axes, point: Point, colour: str, marker: str, *, is_control: bool, is_hollow: bool
) -> None:
    x, y, interval = point
    if interval is not None:
        width = 0.5 if is_control else 0.9
        axes.vlines([x], *interval, color=colour, linewidth=width, alpha=0.45)
    face = PAPER if is_hollow else colour
    size = 4.0 if is_control else 5.5
    axes.plot(
        [x], [y], marker, color=colour, markersize=size, markeredgewidth=1.0,
        markerfacecolor=face, linestyle="none",
    )  # fmt: skip
    if is_hollow and marker == CONTROL:  # a cross has no inside to leave empty
        axes.plot([x], [y], "o", color=colour, markersize=size + 3, markerfacecolor="none")


def _size_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1.0,) if high > 30 * low else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}\u00a0%"))
    axes.tick_params(axis="x", labelsize=7.5)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _cost_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.axvline(1.0, color=GRID, linewidth=0.8, zorder=0)
    axes.set_xlim(right=min(MOST * 1.2, max(2.0, axes.get_xlim()[1])))
    is_wide = axes.get_xlim()[1] > MOST / 5
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if is_wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(_times))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("perplexity over the untouched model's")


def _times(x: float, _: object) -> str:
    return f"\u2265\u00a0{MOST:g}\u00d7" if x >= MOST else f"{x:g}\u00d7"


def _looks(methods: Sequence[SweepMethod]) -> dict[str, tuple[str, str]]:
    """Return colour and marker by method: a colour each, grey crosses for controls."""
    found, place = {}, 0
    for method in methods:
        if method.like is not None:
            found[method.name] = (SOFT, CONTROL)
            continue
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        found[method.name] = (colour, marker)
        place += 1
    return found


def _legend_rows(metrics: SweepMetrics) -> int:
    return math.ceil((sum(method.like is None for method in metrics.methods) + 3) / 3)


def _legend(figure: Figure, metrics: SweepMetrics) -> None:
    looks = _looks(metrics.methods)
    shown = [(m.name, *looks[m.name], False) for m in metrics.methods if m.like is None]
    if any(method.like is not None for method in metrics.methods):
        shown.append(("random controls", SOFT, CONTROL, False))
    if any(cell.destroyed for cell in metrics.cells):
        shown.append(("hollow: destroyed, as judged", INK, "o", True))
    axes = figure.axes[0]
    for panel in figure.axes:
        place = panel.get_subplotspec()
        if place is not None and place.is_first_col():
            panel.set_ylabel("attack success rate")
    handles = [
        axes.plot(
            [], [], marker, color=colour, markersize=5, linestyle="none", label=name,
            markerfacecolor=PAPER if is_hollow else colour,
        )[0]
        for name, colour, marker, is_hollow in shown
    ]  # fmt: skip
    handles += axes.plot([], [], color=INK, linewidth=0.9, linestyle=UNTOUCHED, label=NO_CHANGE)
    height = (0.1 + 0.18 * _legend_rows(metrics)) / figure.get_figheight()
    figure.legend(
        handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=8.5,
        bbox_to_anchor=(0.5, 0.0),
    )  # fmt: skip
    figure.tight_layout(rect=(0, height, 1, 1))
