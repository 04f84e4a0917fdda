"""What an evaluation's metrics.json holds, as far as its page shows it."""

from typing import Any, Literal

from pydantic import Field

from safetypin.artifacts import Rate
from safetypin.report._findings import RunPart
from safetypin.report._metrics import Interval, Judge, Part


class Named(Part):
    """A model by name and id."""

    name: str
    id: str


class Removed(Part):
    """The set that was removed."""

    num_selected: int
    fraction: float
    fingerprint: str


class Language(Part):
    """The perplexity; None where it overflowed.

    Beside it that of the untouched model on the same texts, where a set was removed.
    """

    value: float | None
    num_tokens: int
    untouched: float | None = None
    ratio: float | None = None


class MeanRate(Part):
    """Complied answers of all judged ones, with the interval that counts prompts."""

    value: float | None
    interval: Interval | None
    num_hits: int
    num_judged: int
    num_unjudged: int


class AttackPart(Part):
    """One attack; the rates are None where the model no longer speaks."""

    mean: MeanRate | None
    any_of_n: Rate | None
    num_variants: int
    by_variant: list[Rate] | None
    degenerate: Rate
    why_no_asr: str | None
    settings: dict[str, Any]


class TaskPart(Part):
    """One zero-shot task."""

    metric: str
    accuracy: Rate
    standard_error: float | None


class ZeroShotPart(Part):
    """All zero-shot tasks."""

    tasks: dict[str, TaskPart]
    mean: float
    standard_error: float | None


class PairPart(Part):
    """Two judges on the same answers."""

    first: str
    second: str
    agree: Rate
    kappa: float | None


class OddPart(Part):
    """One answer on which judges disagree."""

    kind: str
    index: int
    verdicts: dict[str, str]


class JudgesPart(Part):
    """Judges side by side."""

    asr: dict[str, Rate]
    pairs: list[PairPart]
    num_answers: int
    num_disagreements: int
    disagreements: list[OddPart]


class EvaluateMetrics(RunPart):
    """All that the page of an evaluation reads."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["evaluate"]
    model: Named
    removed: Removed | None
    judge: Judge
    rates: dict[str, dict[str, Rate]]
    asr: Rate | None
    why_no_asr: str | None
    perplexity: Language | None
    attacks: dict[str, AttackPart]
    zero_shot: ZeroShotPart | None
    problems: Rate | None
    judges: JudgesPart | None
