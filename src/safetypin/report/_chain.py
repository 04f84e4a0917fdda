"""The page of a chain of commands: what each found, with a link to its own page."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from safetypin.report import _contrast, _guard, _patch
from safetypin.report._contrast import ContrastMetrics
from safetypin.report._findings import RunPart, Section, Table, findings_page
from safetypin.report._guard_metrics import GuardMetrics
from safetypin.report._html import write_page
from safetypin.report._metrics import Part
from safetypin.report._patch_metrics import PatchMetrics
from safetypin.report._read import kind_of, read


class StepRow(Part):
    """One command and what it found."""

    name: str
    command: str
    answer: str
    sentence: str
    report: str


class ChainMetrics(RunPart):
    """All that a chain's metrics.json holds."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["chain"]
    title: str
    about: str
    scale: str
    steps: list[StepRow]


def headline(folder: Path) -> tuple[str, str]:
    """Return the answer of a contrast, a patching run or a guard, in a few words and a sentence."""
    kind = kind_of(folder)
    if kind == "contrast":
        return _contrast.headline(read(folder, kind, ContrastMetrics))
    if kind == "patch":
        return _patch.headline(read(folder, kind, PatchMetrics))
    return _guard.headline(read(folder, kind, GuardMetrics))


def write_chain_report(folder: Path) -> Path:
    """Write `folder/report.html` from the metrics.json of a chain of commands.

    Raises:
        UserError: metrics.json is missing, of another kind or not of schema 1; the disk is full.
    """
    m = read(folder, "chain", ChainMetrics)
    rows = [(row.name, row.command, row.answer, row.report) for row in m.steps]
    table = Table(label="Steps", columns=("Step", "Command", "Found", "Page"), rows=rows)
    last = m.steps[-1]
    page = findings_page(
        title=m.title,
        answer=last.answer,
        sentence=last.sentence,
        facts=[],
        sections=[
            Section(
                anchor="steps", heading="What each step found", words=[m.about], tables=[table]
            ),
            Section(
                anchor="sentences",
                heading="In sentences",
                points=[f"{row.name}: {row.sentence}" for row in m.steps],
            ),
        ],
        about=m,
    )
    return write_page(folder, page)
