"""What was answered before and after: the content of examples.json."""

from typing import Literal

from safetypin.artifacts import Verdict
from safetypin.report._metrics import Part


class Answer(Part):
    """One answer and its verdict."""

    text: str
    verdict: Verdict


class Example(Part):
    """One prompt, answered before and after."""

    kind: Literal["harmful", "harmless", "borderline"]
    prompt: str
    before: Answer
    after: Answer


class Examples(Part):
    """Answers before beside those after; of an audit, after the removal of one cell."""

    cell: str | None = None
    rows: list[Example]
