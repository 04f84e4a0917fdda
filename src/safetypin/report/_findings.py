"""A page of findings: an answer, facts, and sections of words, figures and tables.

Contrast, patch and guard have one form of page, so that only what they say differs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from safetypin.report import _words
from safetypin.report._html import render
from safetypin.report._metrics import Part, Prompts


class Fact(Part):
    """A number that carries the answer."""

    label: str
    value: str
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the first column names the rows.

    Attributes:
        label: What it is, for who cannot see it.
        columns: Their headings.
        rows: Cells as text; a `Markup` is a link.
        strong: Rows to set apart, by their place.
        folded: Closed until it is opened, as a long one beside a figure is.
        titled: Whether its label stands over it.
    """

    label: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: frozenset[int] = frozenset()
    folded: bool = False
    titled: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with what it shows."""

    svg: Markup
    caption: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page.

    Attributes:
        anchor: Its id on the page.
        heading: Its heading.
        words: Paragraphs, before figures and tables.
        figures: In order.
        tables: After the figures.
        points: A list after all.
    """

    anchor: str
    heading: str
    words: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    points: Sequence[str] = ()

    def moved(self, anchor: str, heading: str) -> "Section":
        """Return the same on another page, under another heading."""
        return dataclasses.replace(self, anchor=anchor, heading=heading)


class RunPart(Part):
    """What every page says of its run."""

    safetypin: str
    settings: dict[str, Any]
    prompts: dict[str, Prompts]
    run: dict[str, Any]


def findings_page(
    *,
    title: str,
    answer: str,
    sentence: str,
    facts: Sequence[Fact],
    sections: Sequence[Section],
    about: RunPart,
    source: str = "metrics.json beside this page",
) -> str:
    """Return the page.

    Args:
        title: What was done, to what.
        answer: The answer in a word or two.
        sentence: The answer in a sentence.
        facts: The numbers that carry it.
        sections: The rest, in order.
        about: What ran.
        source: The files that its numbers are from.
    """
    contents = {"verdict": "Finding"} | {part.anchor: part.heading for part in sections}
    settings = [(name, _words.value(value)) for name, value in about.settings.items()]
    return render(
        "findings.html.j2",
        {**contents, "run": "What ran"},
        title=title,
        answer=answer,
        sentence=sentence,
        facts=facts,
        sections=sections,
        about=about,
        run=_Run(about.run),
        settings=settings,
        source=source,
    )


class _Run(dict[str, Any]):
    """The `run` part; what an older file lacks is empty."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__({"stages": [], "hashes": {}, "commit": None} | dict(values))
