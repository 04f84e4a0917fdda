"""The table of an experiment in words: a row for each training, and the mean of each arm."""

import dataclasses

from safetypin.report import _words
from safetypin.report._experiment_metrics import (
    ArmResult,
    Beside,
    ExperimentMetrics,
    Outcome,
    Spread,
    TrainingRow,
)

# the page leaves the last one to its table of sets
COLUMNS = (
    "ASR before", "ASR after", "change, points", "harmless refused", "perplexity",
    "task perplexity", "scores, relative", "moved", "Jaccard",
)  # fmt: skip


SHORT = {  # what a terminal has room for: the column's place, and its name there
    1: "ASR after", 2: "change", 4: "language", 5: "task", 6: "scores", 7: "moved", 8: "Jaccard",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableRow:
    """One row of the table.

    Attributes:
        label: The arm and the seed.
        cells: One a column.
        links: Pages by their kind, relative to the experiment's.
        is_mean: Whether it is the mean over the seeds of an arm.
    """

    label: str
    cells: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    is_mean: bool = False


def table_rows(metrics: ExperimentMetrics) -> list[TableRow]:
    """Return the rows of all arms."""
    rows = []
    for arm in metrics.arms:
        rows += [_row(arm, run) for run in arm.runs]
        if len(arm.runs) > 1:
            rows.append(_mean(arm))
    return rows


def _row(arm: ArmResult, run: TrainingRow) -> TableRow:
    outcome, rise = run.outcome, run.outcome.asr_rise
    refused = f"{_words.rate(outcome.refused_before)} → {_words.rate(outcome.refused_after)}"
    after = "destroyed" if outcome.destroyed else _words.rate(outcome.asr_after)
    change = _words.NONE
    if rise is not None:
        ends = "" if rise.interval is None else f" ({_words.points_interval(rise.interval)})"
        change = f"{_words.points(rise.value).removesuffix('points').strip()}{ends}"
    drop = None if run.scores is None else run.scores.relative_drop
    drift, overlap = run.drift, run.overlap
    links = {"tune": run.reports.tune, "track": run.reports.track}
    return TableRow(
        label=f"{arm.arm} {run.seed}",
        cells=(
            _words.rate(outcome.asr_before),
            after,
            change,
            refused,
            _words.ratio(outcome.perplexity_ratio),
            _task(outcome),
            "" if run.scores is None else _words.percent_change(None if drop is None else -drop),
            "" if drift is None else "held" if drift.is_held else _words.ratio(drift.ratio),
            "" if overlap is None else _words.decimal(overlap.jaccard),
        ),
        links=tuple((kind, link) for kind, link in links.items() if link is not None),
    )


def _task(outcome: Outcome) -> str:
    ratio, exact = _words.ratio(outcome.task_perplexity_ratio), outcome.exact_match_after
    return (
        ratio if exact is None else f"{ratio}, exact {_words.rate(exact)} ({_words.bounds(exact)})"
    )


def _mean(arm: ArmResult) -> TableRow:
    spread = arm.spread
    return TableRow(
        label=f"{arm.arm} mean ± sd",
        cells=(
            "",
            "",
            _with_sd(spread["asr_rise"], 100.0, 0, signed=True),
            _with_sd(spread["over_refusal_rise"], 100.0, 0, signed=True),
            _with_sd(spread["perplexity_ratio"], 1.0, 2),
            _with_sd(spread["task_perplexity_ratio"], 1.0, 2),
            _changed(spread["relative_drop"]),
            _with_sd(spread["drift_ratio"], 1.0, 2),
            _with_sd(spread["jaccard"], 1.0, 2),
        ),
        is_mean=True,
    )


def _changed(found: Spread) -> str:
    """Return how the score changed, as the rows of the seeds have it."""
    if found.mean is None:
        return ""
    sd = "" if found.sd is None else f" ± {_words.percent(found.sd)}"
    return f"{_words.percent_change(-found.mean)}{sd}"


def _with_sd(found: Spread, factor: float, digits: int, *, signed: bool = False) -> str:
    """Return mean and standard deviation, nothing where no run has the number."""
    if found.mean is None:
        return ""
    write = _words.signed if signed else _words.decimal
    sd = "" if found.sd is None else f" ± {_words.decimal(abs(factor) * found.sd, digits)}"
    return f"{write(factor * found.mean, digits)}{sd}"


SCORE_COLUMNS = ("mean score", "relative", "95 % interval", "noise floor", "control, relative")
OVERLAP_COLUMNS = ("set", "found again", "Jaccard", "noise floor", "control", "chance")


def score_rows(metrics: ExperimentMetrics) -> list[TableRow]:
    """Return what became of the critical set's safety scores in every training."""
    rows = []
    for arm in metrics.arms:
        for run in arm.runs:
            if run.scores is None:
                continue
            one, ends = run.scores, run.scores.relative_interval
            low_high = _words.NONE
            if ends is not None:
                low_high = " to ".join(_words.percent_change(-end) for end in reversed(ends))
            cells = (
                _fall(one.drop),
                _fall(one.relative_drop),
                low_high,
                _fall(one.relative_noise),
                _fall(one.control_relative_drop),
            )
            rows.append(TableRow(label=f"{arm.arm} {run.seed}", cells=cells))
    return rows


def _fall(drop: float | None) -> str:
    return _words.NONE if drop is None else _words.percent_change(-drop)


def overlap_rows(metrics: ExperimentMetrics) -> list[TableRow]:
    """Return how much of each set is in the one made anew, beside noise, control and chance.

    After the rows of an arm of several seeds come their means and standard deviations.
    """
    rows = []
    for arm in metrics.arms:
        rows += _overlaps(arm)
        if len(arm.runs) > 1:
            rows += _mean_overlaps(arm)
    return rows


def _mean_overlaps(arm: ArmResult) -> list[TableRow]:
    """Return the mean over the seeds, with the standard deviation, of each set of an arm."""
    return [
        TableRow(
            label=f"{arm.arm} mean ± sd",
            cells=(
                name.replace("_", " "),
                f"{_with_sd(arm.spread[f'{name}_share'], 100.0, 0)}\u00a0%",
                _with_sd(arm.spread[f"{name}_jaccard"], 1.0, 2),
                *[""] * 3,
            ),
            is_mean=True,
        )
        for name in arm.runs[0].overlaps
        if f"{name}_jaccard" in arm.spread  # not in those of an older version
    ]


def _overlaps(arm: ArmResult) -> list[TableRow]:
    return [
        TableRow(
            label=f"{arm.arm} {run.seed}",
            cells=(
                name.replace("_", " "),
                _words.NONE if found.share is None else _words.percent(found.share),
                _words.decimal(found.jaccard),
                _words.decimal(found.noise_jaccard),
                _words.decimal(found.control_jaccard),
                _words.decimal(found.chance_jaccard),
            ),
        )
        for run in arm.runs
        for name, found in run.overlaps.items()
    ]


# of a comparison of arms: the column's name, the number, its factor and digits
DIFFERENCES = {
    "asr": ("ASR, points", 100.0, 0),
    "task_loss": ("Task loss, nats a token", 1.0, 3),
    "refusals": ("Harmless refused, points", 100.0, 0),
    "solved": ("Problems solved, points", 100.0, 0),
}


def difference_columns(metrics: ExperimentMetrics) -> list[str]:
    """Return the numbers that arms are compared by; none where no arms are compared."""
    known = {name for one in metrics.verdict for name in one.differences}
    return [name for name in DIFFERENCES if name in known]


def difference_rows(metrics: ExperimentMetrics) -> list[TableRow]:
    """Return the first arm beside every other."""
    names = difference_columns(metrics)
    return [
        TableRow(
            label=one.hypothesis,
            cells=(one.answer, *(_difference(one.differences.get(name), name) for name in names)),
        )
        for one in metrics.verdict
        if one.differences
    ]


def _difference(found: Beside | None, name: str) -> str:
    if found is None or found.value is None:
        return _words.NONE
    _, factor, digits = DIFFERENCES[name]
    ends = ""
    if found.interval is not None:
        low, high = (_words.signed(factor * end, digits) for end in found.interval)
        ends = f" ({low} to {high})"
    return f"{_words.signed(factor * found.value, digits)}{ends}"


def headline(metrics: ExperimentMetrics) -> str:
    """Return the answers on all hypotheses in one line; of compared arms how many lost."""
    others = [one for one in metrics.verdict if one.differences]
    if others:
        eroded = all(one.answer == "supported" for one in metrics.verdict if not one.differences)
        if not eroded:
            return "Undecided: no loss of safety to protect from is shown"
        counts = [
            sum(one.answer == word for one in others) for word in ("supported", "not supported")
        ]
        return (
            f"{metrics.arms[0].arm} beats {counts[0]} of {len(others)} other arms, "
            f"loses to {counts[1]}"
        )
    return "; ".join(f"{one.hypothesis} {one.answer}" for one in metrics.verdict)
