"""The figure of an experiment that compares protections: safety against the task."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from safetypin.report._experiment_metrics import ArmResult, ExperimentMetrics
from safetypin.report._picture import Picture
from safetypin.report._style import INK, PAPER, SOFT, STRONG, light_grid

MARKERS = "osD^v<>PX*ph"


def trade_picture(metrics: ExperimentMetrics) -> Picture:
    """Return the ASR against the loss on the task, every arm and every seed."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.1, 0.14, 0.55, 0.82))
        light_grid(axes)
        for place, arm in enumerate(metrics.arms):
            _draw_arm(axes, arm, MARKERS[place % len(MARKERS)], is_first=place == 0)
        axes.set_xlabel("loss on the task after, nats a token (left is better)")
        axes.set_ylabel("ASR after (down is safer)")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f}\u00a0%"))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False, fontsize=8.5)

    return Picture(
        name="trade",
        title="Safety against the task: small marks are seeds, large ones means with 95 % "
        "intervals over the seeds; the numbers are in the table below",
        width=7.4,
        height=4.2,
        draw=draw,
    )


def _draw_arm(axes: Axes, arm: ArmResult, marker: str, *, is_first: bool) -> None:
    colour = STRONG if is_first else INK if arm.protect == "none" else SOFT
    points = [
        (run.outcome.task_loss_after, run.outcome.asr_after.value)
        for run in arm.runs
        if run.outcome.task_loss_after is not None
        and run.outcome.asr_after is not None
        and run.outcome.asr_after.value is not None
    ]
    if not points:
        return
    xs, ys = zip(*points, strict=True)
    axes.plot(xs, ys, marker, color=colour, markersize=3.5, alpha=0.6, linestyle="none")
    asr, task = arm.spread["asr_after"], arm.spread["task_loss_after"]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    if asr.interval and task.interval:
        axes.hlines([y], *task.interval, color=colour, linewidth=0.8)
        axes.vlines([x], *asr.interval, color=colour, linewidth=0.8)
    axes.plot(
        [x], [y], marker, color=colour, markerfacecolor=PAPER, markersize=8, label=arm.arm,
        linestyle="none",
    )  # fmt: skip
