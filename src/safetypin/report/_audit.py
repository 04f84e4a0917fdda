"""The page of an audit."""

from pathlib import Path

from markupsafe import Markup

from safetypin.report import _headline, _words
from safetypin.report._examples import Examples
from safetypin.report._figures import asr_figure, perplexity_figure
from safetypin.report._html import answers, render, write_page
from safetypin.report._maps import overlap_figure, where_figure
from safetypin.report._metrics import Metrics, Overlap
from safetypin.report._read import read_examples, read_metrics

CONTENTS = {
    "verdict": "Verdict",
    "effect": "Effect",
    "where": "Where it lies",
    "overlap": "Overlap",
    "sets": "All sets",
    "answers": "Answers",
    "reading": "How to read it",
    "run": "What ran",
}


def write_audit_report(folder: Path) -> Path:
    """Write `folder/report.html` from the metrics.json and examples.json of an audit.

    The same two files give the same bytes.

    Raises:
        UserError: metrics.json is missing or is not of schema 1, or the disk is full.
    """
    return write_page(folder, audit_page(read_metrics(folder), read_examples(folder)))


def audit_page(metrics: Metrics, examples: Examples | None) -> str:
    """Return the page."""
    return render(
        "audit.html.j2",
        CONTENTS,
        m=metrics,
        sentence=_headline.sentence(metrics),
        facts=_headline.facts(metrics),
        controls=_headline.controls(metrics),
        checks=_headline.checks(metrics),
        mismatches=_headline.mismatches(metrics),
        magnitudes=_headline.magnitudes,
        carrying=_headline.carrying_cell(metrics),
        groups=_headline.cell_groups(metrics),
        concentration=_headline.concentration(metrics.where) if metrics.where else None,
        answers=answers(examples),
        answers_cell=metrics.cell(examples.cell) if examples else None,
        where_cell=metrics.cell(metrics.where.cell) if metrics.where else None,
        overlap=_shown_overlap(metrics),
        group=_words.GROUPS.get(str(metrics.settings.get("group")), "each group"),
        settings=[(name, _words.value(given)) for name, given in metrics.settings.items()],
        **_drawings(metrics),
    )


def _drawings(metrics: Metrics) -> dict[str, Markup | None]:
    shown = _shown_overlap(metrics)
    return {
        "asr_svg": asr_figure(metrics) if metrics.cells else None,
        "perplexity_svg": perplexity_figure(metrics) if metrics.cells else None,
        "where_svg": where_figure(metrics.where) if metrics.where else None,
        "overlap_svg": overlap_figure(shown) if shown and shown.by_layer else None,
    }


def _shown_overlap(metrics: Metrics) -> Overlap | None:
    """Return the overlap at the top fraction nearest to that of the carrying set."""
    cell = _headline.carrying_cell(metrics)
    wanted = cell.q if cell else 1.0
    return min(metrics.overlap, key=lambda item: abs(item.fraction - wanted), default=None)
