"""The page of an experiment, and its summary for the terminal."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from safetypin.report import _words
from safetypin.report._console import print_judge
from safetypin.report._experiment_figures import trade_picture
from safetypin.report._experiment_metrics import ExperimentMetrics
from safetypin.report._experiment_words import (
    COLUMNS,
    DIFFERENCES,
    OVERLAP_COLUMNS,
    SCORE_COLUMNS,
    SHORT,
    difference_columns,
    difference_rows,
    headline,
    overlap_rows,
    score_rows,
    table_rows,
)
from safetypin.report._html import render, write_page
from safetypin.report._read import METRICS_FILE, parse, read

CONTENTS = {
    "verdict": "Verdict",
    "table": "All trainings",
    "scores": "Scores and sets",
    "reading": "How to read it",
    "run": "What ran",
}


def write_experiment_report(folder: Path) -> Path:
    """Write `folder/report.html` from the metrics.json of an experiment.

    The same file gives the same bytes.

    Raises:
        UserError: metrics.json is missing, of another kind or not of schema 1; the disk is full.
    """
    return write_page(folder, experiment_page(read(folder, "experiment", ExperimentMetrics)))


def experiment_page(metrics: ExperimentMetrics) -> str:
    """Return the page."""
    settings = [(name, _words.value(value)) for name, value in metrics.settings.items()]
    compares = metrics.set_ is None
    scores, sets = score_rows(metrics), overlap_rows(metrics)
    contents = {name: text for name, text in CONTENTS.items() if name != "scores" or scores or sets}
    return render(
        "experiment.html.j2",
        contents,
        m=metrics,
        trade=trade_picture(metrics).inline() if compares else None,
        headline=headline(metrics),
        differences=[DIFFERENCES[name][0] for name in difference_columns(metrics)],
        difference_rows=difference_rows(metrics),
        columns=COLUMNS,
        rows=table_rows(metrics),
        score_columns=SCORE_COLUMNS,
        score_rows=scores,
        overlap_columns=OVERLAP_COLUMNS,
        overlap_rows=sets,
        settings=settings,
    )


def print_experiment(metrics: Mapping[str, Any], console: Console) -> None:
    """Print the table of an experiment and its answers.

    `metrics` is the content of metrics.json.

    Raises:
        UserError: It is not of schema 1.
    """
    parsed = parse(ExperimentMetrics, metrics, METRICS_FILE, "experiment")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for name in SHORT.values():
        table.add_column(name, justify="right", no_wrap=True)
    for row in table_rows(parsed):
        # intervals and standard deviations have no room
        short = [re.split(r" \(| ± ", row.cells[place])[0] for place in SHORT]
        cells = [row.label.removesuffix(" ± sd"), *short]
        style = "bold" if row.is_mean else None
        table.add_row(*(Text(_plain(cell)) for cell in cells), style=style)
    console.print(table)
    if parsed.judge is not None:
        print_judge(metrics["judge"], console)
    for answer in parsed.verdict:
        said = f"{answer.answer.upper()}  "
        console.print(Text.assemble(f"{answer.hypothesis}: ", (said, "bold"), answer.claim))
        for sentence in answer.sentences:
            console.print(Text(f"  {_plain(sentence)}", style="dim"))


def _plain(text: str) -> str:
    return _words.plain(text.replace("→", "to").replace("±", "+-"))
