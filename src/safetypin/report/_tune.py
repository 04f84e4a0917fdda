"""The page of a fine-tune."""

from pathlib import Path

from safetypin.report import _headline, _tune_words
from safetypin.report._examples import Examples
from safetypin.report._html import answers, render, write_page
from safetypin.report._maps import where_figure
from safetypin.report._read import read, read_examples
from safetypin.report._tune_figures import loss_picture, rates_picture
from safetypin.report._tune_metrics import TuneMetrics

CONTENTS = {
    "verdict": "Outcome",
    "change": "Before and after",
    "training": "Training",
    "held": "What was held",
    "answers": "Answers",
    "reading": "How to read it",
    "run": "What ran",
}


def write_tune_report(folder: Path) -> Path:
    """Write `folder/report.html` from the metrics.json and examples.json of a tune.

    The same two files give the same bytes.

    Raises:
        UserError: metrics.json is missing, of another kind or not of schema 1; the disk is full.
    """
    page = tune_page(read(folder, "tune", TuneMetrics), read_examples(folder))
    return write_page(folder, page)


def tune_page(metrics: TuneMetrics, examples: Examples | None) -> str:
    """Return the page."""
    held = metrics.set_
    where = held.where if held else None
    return render(
        "tune.html.j2",
        CONTENTS,
        m=metrics,
        answer=_tune_words.answer(metrics),
        alarm=_tune_words.is_alarm(metrics),
        sentence=_tune_words.sentence(metrics),
        facts=_tune_words.facts(metrics),
        rows=_tune_words.rows(metrics.before, metrics.after, metrics.paired),
        held=held,
        found=_tune_words.held(metrics),
        basis=_tune_words.basis(metrics),
        concentration=_headline.concentration(where) if where else None,
        where_svg=where_figure(where) if where else None,
        rates_svg=rates_picture(metrics.before, metrics.after).inline(),
        loss_svg=loss_picture(metrics.training).inline() if metrics.training.curve else None,
        answers=answers(examples),
    )
