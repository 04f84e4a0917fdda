"""Figures of a guard: calibration, and area against the number of training prompts."""

from typing import Any

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from safetypin.report._findings import Figure, Section
from safetypin.report._guard_metrics import Bin, GuardMetrics, Row
from safetypin.report._picture import Picture
from safetypin.report._style import INK, SOFT, STRONG, light_grid

MARKS = (("tfidf-char", "s-", SOFT), ("random", "x:", SOFT), ("contrast", "o-", STRONG))


def curves(m: GuardMetrics, own: Row) -> Section:
    """Return the part of the page with both figures."""
    figures = [
        Figure(
            svg=_calibration(own.test.calibration).inline(),
            caption="Share of unsafe prompts against predicted probability, with 95 % Wilson "
            "intervals; on the line a probability means what it says.",
        )
    ]
    if len(m.curve) > 1:
        figures.append(
            Figure(
                svg=_learning(m.curve).inline(),
                caption="Area under the ROC curve on the held-out prompts against the number of "
                "training prompts, with 95 % bootstrap intervals. Filled: contrast units; crosses: "
                "random units; squares: characters (TF-IDF).",
            )
        )
    return Section(anchor="curves", heading="Calibration and learning curve", figures=figures)


def _calibration(bins: list[Bin]) -> Picture:
    def draw(figure: Canvas) -> None:
        axes = figure.add_axes((0.15, 0.16, 0.82, 0.81))
        light_grid(axes)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (1.3, 1.3)))
        for point in bins:
            if point.unsafe.interval and point.unsafe.value is not None:
                axes.vlines([point.predicted], *point.unsafe.interval, color=STRONG, linewidth=1.1)
                axes.plot([point.predicted], [point.unsafe.value], "o", color=STRONG, markersize=5)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("predicted probability of unsafe")
        axes.set_ylabel("share unsafe")

    return Picture(name="calibration", title="Calibration", width=4.4, height=3.0, draw=draw)


def _learning(curve: list[dict[str, Any]]) -> Picture:
    sizes = [row["num_prompts"] for row in curve]
    step = (max(sizes) - min(sizes)) / 90

    def draw(figure: Canvas) -> None:
        axes = figure.add_axes((0.15, 0.16, 0.82, 0.81))
        light_grid(axes)
        for place, (name, mark, colour) in enumerate(MARKS):
            if name not in curve[0]:
                continue  # a guard of an older version has no random units here
            shown = [size + (place - 1) * step for size in sizes]
            for x, row in zip(shown, curve, strict=True):
                if ends := row.get("intervals", {}).get(name):
                    axes.vlines([x], *ends, color=colour, linewidth=0.9)
            axes.plot(shown, [row[name] for row in curve], mark, color=colour, markersize=4.5)
        axes.set_ylim(top=1.005)
        axes.set_xlabel("training prompts")
        axes.set_ylabel("ROC AUC")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.2f}"))

    return Picture(name="learning", title="Learning curve", width=4.4, height=3.0, draw=draw)
