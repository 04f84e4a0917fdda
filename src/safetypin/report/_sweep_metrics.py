"""What a sweep found: the content of its metrics.json."""

from typing import Any, Literal

from pydantic import Field

from safetypin.artifacts import Rate
from safetypin.report._findings import RunPart
from safetypin.report._metrics import Difference, Interval, Judge, Model, Overlap, Part, Perplexity


class Attacked(Part):
    """One attack: over all answers, and over prompts with at least one that complied."""

    mean: dict[str, Any] | None
    mean_as_judged: dict[str, Any] | None = None
    also_judged: dict[str, Rate] = Field(default_factory=dict)
    any_of_n: Rate | None
    by_variant: list[Rate] | None = None
    num_variants: int

    @property
    def value(self) -> float | None:
        """The share of all answers that complied; None of a destroyed model."""
        return self.mean["value"] if self.mean else None

    @property
    def best(self) -> float | None:
        """The highest rate of one variant, such as a suffix; None of a destroyed model."""
        values = [rate.value for rate in self.by_variant or () if rate.value is not None]
        return max(values, default=None)

    @property
    def as_judged(self) -> tuple[float, Interval | None] | None:
        """That share with its 95 % interval; of a destroyed model what the judge says of it."""
        mean = self.mean or self.mean_as_judged
        if mean is None or mean["value"] is None:
            return None
        ends = mean["interval"]
        return mean["value"], None if ends is None else (ends[0], ends[1])


class Choices(Part):
    """Accuracy on questions of multiple choice."""

    accuracy: Rate


class MeanAccuracy(Part):
    """The mean over tasks, each with the same weight, and its standard error."""

    value: float
    standard_error: float | None


class RemovedRow(Part):
    """How much of the model a cell takes out."""

    unit: str
    count: int
    total: int
    share: float


class KnownRow(Part):
    """What the paper reports for the same cell, and the name of its row there."""

    row: str = ""
    share: float | None
    vanilla: float
    suffix: float | None
    decoding: float | None
    accuracy: float


class Untouched(Part):
    """The model as it is."""

    asr: Rate | None
    refusal: Rate
    degenerate: Rate
    harmless_refused: Rate
    borderline_refused: Rate
    perplexity: Perplexity
    attacks: dict[str, Attacked]
    also_judged: dict[str, Rate]
    zero_shot: dict[str, Choices] = Field(default_factory=dict)
    zero_shot_mean: MeanAccuracy | None = None
    known: KnownRow | None = None


class SweepCell(Part):
    """One method at one size."""

    id: str
    method: str
    size: str
    seed: int | None
    like: str | None
    removed: RemovedRow
    destroyed: bool
    why_destroyed: str | None
    asr: Rate | None
    asr_as_judged: Rate
    asr_change: Difference | None
    degenerate: Rate
    harmless_refused: Rate
    borderline_refused: Rate
    also_judged: dict[str, Rate]
    attacks: dict[str, Attacked]
    perplexity_ratio: float | None
    zero_shot: dict[str, Choices] = Field(default_factory=dict)
    zero_shot_mean: MeanAccuracy | None = None
    known: KnownRow | None


class SweepMethod(Part):
    """One method of the file."""

    name: str
    about: str
    kind: str
    like: str | None
    scorer: str | None


class LayerSimilarity(Part):
    """What the safety and utility directions of one layer share."""

    layer: int
    similarity: float | None
    chance: float | None
    noise_floor: float | None


class RankOverlap(Part):
    """What the safety and utility directions share, `share` of each matrix's ranks."""

    share: float
    by_layer: list[LayerSimilarity]


class MatrixOverlap(Part):
    """Jaccard index of the tops in every matrix, layer by module; None where there is none."""

    layers: list[int]
    modules: list[str]
    jaccard: list[list[float | None]]
    chance: list[list[float | None]]
    noise_floor: list[list[float | None]]


class TopsOverlap(Overlap):
    """What the tops share, also matrix by matrix."""

    by_matrix: MatrixOverlap | None = None


class SweepSets(Part):
    """How the sets relate to each other."""

    overlap: dict[str, TopsOverlap]
    between: dict[str, Any]
    of: dict[str, str]


class SweepMetrics(RunPart):
    """All that a sweep's metrics.json holds."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["sweep"]
    title: str
    about: str
    scale: str
    model: Model
    judge: Judge
    baseline: Untouched
    sets: SweepSets | None
    ranks: RankOverlap | None
    methods: list[SweepMethod]
    cells: list[SweepCell]
    num_cells: int

    def method(self, cell: SweepCell) -> SweepMethod:
        """Return the method of a cell."""
        return next(method for method in self.methods if method.name == cell.method)
