"""The page of a chain of commands: what all steps say together, and what each found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from markupsafe import Markup
from pydantic import Field

from safetypin.report import _chain_words, _contrast, _guard, _patch
from safetypin.report._chain_words import Found
from safetypin.report._contrast import ContrastMetrics
from safetypin.report._findings import RunPart, Section, Table, findings_page
from safetypin.report._guard_metrics import GuardMetrics
from safetypin.report._html import write_page
from safetypin.report._metrics import Part
from safetypin.report._patch_metrics import PatchMetrics
from safetypin.report._read import METRICS_FILE, kind_of, read

FORMS: dict[str, type[ContrastMetrics | PatchMetrics | GuardMetrics]] = {
    "contrast": ContrastMetrics,
    "patch": PatchMetrics,
    "guard": GuardMetrics,
}


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
    """Write `folder/report.html` from the metrics.json of a chain of commands, and of its steps.

    A step whose folder is gone has its answer on the page, and neither link nor figures.

    Raises:
        UserError: metrics.json is missing, of another kind or not of schema 1; the disk is full.
    """
    m = read(folder, "chain", ChainMetrics)
    found = [_found(folder, row) for row in m.steps]
    known = [step for step in found if step is not None]
    last = m.steps[-1]
    page = findings_page(
        title=m.title,
        answer=_chain_words.answer(known) or last.answer,
        sentence=_chain_words.sentence(known) or last.sentence,
        facts=_chain_words.facts(known),
        sections=[_steps(folder, m), *_baselines(known), *_parts(known)],
        about=m,
        source="the metrics.json of this folder and of every step",
    )
    return write_page(folder, page)


def _found(folder: Path, row: StepRow) -> Found | None:
    own = folder / row.name
    if not (own / METRICS_FILE).is_file():
        return None
    return Found(name=row.name, metrics=read(own, row.command, FORMS[row.command]))


def _steps(folder: Path, m: ChainMetrics) -> Section:
    rows = [(_link(folder, row), row.command, row.answer) for row in m.steps]
    return Section(
        anchor="steps",
        heading="What each step found, with a link to its page",
        words=[m.about] if m.about else [],
        tables=[
            Table(label="Steps", columns=("Step", "Command", "Found"), rows=rows),
        ],
        points=[f"{row.name}: {row.sentence}" for row in m.steps],
    )


def _link(folder: Path, row: StepRow) -> str:
    """Return a step's name, as a link to its page, which is written before this one."""
    if not (folder / row.report).is_file():
        return row.name
    return Markup('<a href="{}">{}</a>').format(quote(row.report), row.name)


def _parts(found: Sequence[Found]) -> list[Section]:
    sections = []
    for place, step in enumerate(found):
        m = step.metrics
        if isinstance(m, ContrastMetrics):
            part = _contrast.where(m, f"layers-{place}")
            heading = f"Which units: {step.name}"
        elif isinstance(m, PatchMetrics):
            part = _patch.curve(m, f"recovery-{place}")
            heading = f"Are they the cause: {step.name}"
        else:
            part = _guard.table(m, "test", "On held-out prompts")
            heading = f"Do they make a guard: {step.name}"
        sections.append(part.moved(f"step-{place}", heading))
    return sections


def _baselines(found: Sequence[Found]) -> list[Section]:
    rows = _chain_words.baseline_rows(found)
    if not rows:
        return []
    names = [f"Beats {name}" for name in _guard.BASELINES]
    shown = Section(
        anchor="baselines",
        heading="Does the guard beat its baselines?",
        words=[
            "Yes where every paired interval of the accuracy is above 0, no where every one is "
            "below; else it is not shown. In brackets: the lowest and the highest difference of "
            "accuracy, in points."
        ],
        tables=[
            Table(
                label="Guards against their baselines",
                columns=("Guard", "On", "Kind of set", "Right", *names),
                rows=rows,
            )
        ],
    )
    return [shown]
