"""The verdict and its numbers for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from safetypin.report import _words
from safetypin.report._headline import carrying_cell, cell_groups, facts, sentence
from safetypin.report._metrics import Cell, Judge, Metrics
from safetypin.report._read import parse_metrics


def print_summary(metrics: Mapping[str, Any], console: Console) -> None:
    """Print verdict, the numbers that carry it, and one row for every critical set.

    `metrics` is the content of metrics.json.

    Raises:
        UserError: It is not of schema 1.
    """
    parsed = parse_metrics(metrics)
    answer = _words.ANSWERS[parsed.verdict.answer].upper()
    console.print(Text.assemble((answer, "bold"), "  ", _words.plain(parsed.model.name)))
    console.print(Text(_words.plain(sentence(parsed))))
    for fact in facts(parsed):
        value = _words.plain(fact.value.replace("\u2192", "to"))
        console.print(Text.assemble(f"{fact.label}: ", (value, "bold")))
        for note in fact.notes:
            console.print(
                Padding(Text(_words.plain(note), style="dim"), (0, 0, 0, 2), expand=False)
            )
    print_judge(metrics["judge"], console)
    if parsed.cells:
        console.print(_table(parsed))


def print_judge(judge: Mapping[str, Any], console: Console) -> None:
    """Print who judged, as metrics.json holds it, and how well that agrees with people."""
    line = _words.plain(_words.judge(Judge.model_validate(judge)))
    console.print(Text(line, style="dim"), soft_wrap=True)


def _table(metrics: Metrics) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("removed")
    for name in ("share", "ASR", "random", "matched", "degenerate", "perplexity"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    before = metrics.baseline
    _add(
        table,
        [
            "nothing",
            "",
            _words.rate(before.asr),
            "",
            "",
            _words.rate(before.degenerate),
            _words.number(before.perplexity.value),
            "",
        ],
    )
    carrying = carrying_cell(metrics)
    for cell, controls in cell_groups(metrics):
        if cell.arm == "critical":
            mark = "verdict" if carrying and cell.id == metrics.verdict.cell == carrying.id else ""
            _add(table, _row(cell, controls, mark))
    return table


def _row(cell: Cell, controls: Sequence[Cell], mark: str) -> list[str]:
    return [
        _set(cell),
        _words.share(cell.fraction),
        _words.percent(cell.asr_value, cell.asr.num_judged if cell.asr else 1),
        *(_highest_asr([c for c in controls if c.arm == arm]) for arm in ("random", "matched")),
        _words.rate(cell.degenerate),
        _words.ratio(cell.perplexity_ratio),
        "destroyed" if cell.destroyed else mark,
    ]


def _set(cell: Cell) -> str:
    q, p = _words.setting(cell.q), _words.setting(cell.p)
    return f"q = p = {q}" if q == p else f"q {q}, p {p}"


def _highest_asr(controls: Sequence[Cell]) -> str:
    values = [cell.asr_value for cell in controls if cell.asr_value is not None]
    return _words.percent(max(values, default=None))


def _add(table: Table, cells: Sequence[str]) -> None:
    # Text, not str: a model name or an id may hold what rich reads as markup.
    table.add_row(*(Text(_words.plain(cell)) for cell in cells))
