"""What a patching run found: the content of its metrics.json."""

from typing import Literal

from pydantic import Field

from safetypin.artifacts import Rate
from safetypin.report._findings import RunPart
from safetypin.report._metrics import Interval, Judge, Part


class Recovery(Part):
    """A share of the gap, with its bootstrap interval."""

    value: float
    interval: Interval
    num_prompts: int


class Change(Part):
    """Patched minus before, on the same prompts."""

    value: float | None
    interval: Interval | None


class CellRow(Part):
    """One set in one model."""

    arm: Literal["contrast", "random"]
    direction: Literal["patch", "ablate"]
    fraction: float
    seed: int | None
    num_selected: int
    num_shared: int
    asr: Rate | None
    degenerate: Rate
    perplexity: float | None = None
    perplexity_ratio: float | None = None
    destroyed: str | None
    recovery: Recovery | None
    change: Change | None


class Ends(Part):
    """One of the two models as it is."""

    asr: Rate | None
    degenerate: Rate
    perplexity: float | None = None
    destroyed: str | None


class Verdict(Part):
    """The answer of the rule."""

    answer: str
    fraction: float | None
    recovery: Recovery | None
    random: float | None


class PatchMetrics(RunPart):
    """All that a patching run's metrics.json holds."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["patch"]
    safe_id: str
    unsafe_id: str
    site: str
    num_units: int
    ablate_with: Literal["zero", "mean", "reference"] = "zero"
    are_prompts_known: bool = True
    judge: Judge
    safe: Ends
    unsafe: Ends
    gap: Change
    cells: list[CellRow]
    verdict: Verdict
