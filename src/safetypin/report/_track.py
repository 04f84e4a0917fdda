"""The page of a track, and its figures as files."""

from pathlib import Path

from markupsafe import Markup

from safetypin.report import _track_words
from safetypin.report._drift_figures import MAIN, PAPERS, banded_group, shown_map
from safetypin.report._examples import Examples
from safetypin.report._html import answers, render, write_page
from safetypin.report._read import read, read_examples
from safetypin.report._track_metrics import TrackMetrics
from safetypin.report._track_pictures import pictures
from safetypin.report._tune_words import rows

FIGURES_FOLDER = "figures"
CONTENTS = {
    "verdict": "Findings",
    "outcome": "Outcome",
    "drift": "Drift",
    "scores": "Scores",
    "overlap": "Overlap",
    "groups": "Groups",
    "answers": "Answers",
    "reading": "How to read it",
    "run": "What ran",
}


def write_track_report(folder: Path) -> Path:
    """Write `folder/report.html` and `folder/figures/` from the metrics.json of a track.

    The same files give the same bytes.

    Raises:
        UserError: metrics.json is missing, of another kind or not of schema 1; the disk is full.
    """
    metrics = read(folder, "track", TrackMetrics)
    figures = folder / FIGURES_FOLDER
    drawn = {name: picture.publish(figures) for name, picture in pictures(metrics)}
    return write_page(folder, track_page(metrics, read_examples(folder), drawn))


def track_page(metrics: TrackMetrics, examples: Examples | None, drawn: dict[str, Markup]) -> str:
    """Return the page."""
    outcome = metrics.outcome
    return render(
        "track.html.j2",
        CONTENTS,
        m=metrics,
        answer=_track_words.answer(metrics),
        alarm=_track_words.is_alarm(metrics),
        facts=_track_words.facts(metrics),
        rows=rows(outcome.before, outcome.after, outcome.paired),
        drift_table=_track_words.drift_table(metrics),
        role_table=_track_words.role_table(metrics, "critical"),
        papers_rows=_track_words.papers_rows(metrics),
        papers_warning=_track_words.papers_warning(metrics),
        papers_gap=_track_words.expected_gap(metrics),
        answers=answers(examples),
        banded=banded_group(metrics),
        mapped=found.group if (found := shown_map(metrics)) else None,
        svg=drawn,
        main=MAIN,
        papers=PAPERS,
    )
