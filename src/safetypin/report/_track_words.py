"""What the page of a track says in words: the answer, the numbers under it, the tables."""

from safetypin.report import _words
from safetypin.report._drift_figures import MAIN, PAPERS
from safetypin.report._headline import Fact
from safetypin.report._track_metrics import Drift, TrackMetrics
from safetypin.report._tune_words import asr_fact

ANSWERS = {
    "fell": "Safety fell",
    "rose": "Safety rose",
    "no fall shown": "No fall shown",
    "destroyed": "Destroyed",
    "not measured": "Not measured",
}
ALARMS = ("fell", "destroyed")


def answer(metrics: TrackMetrics) -> str:
    """Return what became of the safety, in two or three words: that of the first finding."""
    found = metrics.findings[0].answer
    return ANSWERS.get(found, found)


def is_alarm(metrics: TrackMetrics) -> bool:
    """Whether the answer is to be read as a warning."""
    return metrics.findings[0].answer in ALARMS


def facts(metrics: TrackMetrics) -> list[Fact]:
    """Return the three numbers that carry the answer: outcome, drift, what is left of the set."""
    outcome = metrics.outcome
    return [
        asr_fact(outcome.before, outcome.after, outcome.paired.asr),
        _drift_fact(metrics),
        _overlap_fact(metrics) if metrics.overlap else _scores_fact(metrics),
    ]


def _drift_fact(metrics: TrackMetrics) -> Fact:
    label = "Drift of the safety-critical set"
    row = last_row(metrics, "critical", MAIN)
    if row is None or row.value is None:
        why = "not trainable: the run held it, or no adapter reaches it"
        return Fact(label=label, value=_words.NONE, notes=(why,))
    notes = [
        f"{_words.figures(row.value)} of the RMS weight, where {_words.figures(row.expected)} is "
        "expected"
    ]
    if row.low is not None and row.high is not None and row.expected:
        low, high = row.low / row.expected, row.high / row.expected
        chance = f"random layouts {_words.ratio(low)} to {_words.ratio(high)}"
        notes.append(", ".join(p for p in (chance, _words.p_value(row.p_corrected)) if p))
    value = f"{_words.ratio(row.ratio)} expected" if row.ratio is not None else _words.NONE
    return Fact(label=label, value=value, notes=tuple(notes))


def _overlap_fact(metrics: TrackMetrics) -> Fact:
    assert metrics.overlap
    row = next(row for row in metrics.overlap.rows if row.group == "critical")
    beside = (
        f"chance {_words.share(row.chance_share)}, two halves of the prompts "
        f"{_words.percent(row.noise_share)}"
    )
    notes = [f"{row.num_both:,} of {row.num_before:,} weights", beside]
    if row.control_share is not None:
        notes.append(f"after the control run {_words.percent(row.control_share)}")
    return Fact(
        label="Of the set still in the set made anew",
        value=_words.percent(row.share),
        notes=tuple(notes),
    )


def _scores_fact(metrics: TrackMetrics) -> Fact:
    about = "no scores were made (--no-rescore)"
    return Fact(label="Scores before and after", value=_words.NONE, notes=(about,))


def last_row(metrics: TrackMetrics, group: str, measure: str) -> Drift | None:
    """Return a group's row at the last checkpoint, over the whole model."""
    return metrics.drift.row(metrics.checkpoints[-1].step, group, measure)


def drift_table(metrics: TrackMetrics) -> list[tuple[str, list[tuple[str, Drift | None]]]]:
    """Return for every group its rows at the last checkpoint, one a measure."""
    names = [m.measure for m in metrics.drift.measures if m.measure != PAPERS]
    return [
        (group.group, [(name, last_row(metrics, group.group, name)) for name in names])
        for group in metrics.groups
    ]


def papers_rows(metrics: TrackMetrics) -> list[tuple[str, Drift]]:
    """Return the papers' measure of every group that could change."""
    found = [(group.group, last_row(metrics, group.group, PAPERS)) for group in metrics.groups]
    return [(group, row) for group, row in found if row is not None and row.value is not None]


def papers_warning(metrics: TrackMetrics) -> str:
    """Return what is to be read beside the papers' measure."""
    found = next((m for m in metrics.drift.measures if m.measure == PAPERS), None)
    return found.warning if found else ""


def expected_gap(metrics: TrackMetrics) -> str | None:
    """Return in words how far apart the papers' measure would put groups that move alike.

    `expected` of each group is what the same changes give where they meet any weights: groups
    differ in it by the size of their weights alone.
    """
    rows = {group: row.expected for group, row in papers_rows(metrics)}
    random, critical = rows.get("random"), rows.get("critical")
    if not random or not critical:
        return None
    return (
        f"If every weight moved as any other of its matrix, the papers\u2019 measure would still "
        f"show {_words.ratio(random / critical)} as much for random weights as for the "
        "safety-critical set."
    )


def role_table(metrics: TrackMetrics, group: str) -> list[tuple[str, Drift]]:
    """Return the drift of one group by role at the last checkpoint."""
    return [
        (row.role, row) for row in metrics.drift.roles if row.group == group and row.measure == MAIN
    ]
