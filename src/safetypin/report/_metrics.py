"""What an audit found: the content of its metrics.json.

Rates are rebuilt from numerator and denominator: no value is shown that its counts do not give.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from safetypin.artifacts import Rate

Arm = Literal["critical", "random", "matched", "top_utility", "top_safety"]
Interval = tuple[float, float]


class Part(BaseModel):
    """Any part of the two files; keys that this version does not know are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Model(Part):
    """The audited model; `coverage` is the share of block weights that were scored."""

    name: str
    id: str
    architecture: str
    num_parameters: int
    num_block_weights: int
    num_scored_weights: int
    coverage: float
    not_covered: list[str]
    dtype: str
    device: str
    num_layers: int


class Judge(Part):
    """Who called an answer a refusal, and how well that agrees with people."""

    name: str
    precision: Rate | None
    recall: Rate | None
    validated_on: str | None
    refusal_judge: str | None = None  # beside a judge that tells harm alone


class Prompts(Part):
    """One prompt set, by source and fingerprint."""

    source: str
    fingerprint: str
    num_prompts: int


class Perplexity(Part):
    """Perplexity of the untouched model."""

    value: float | None
    num_tokens: int
    num_texts: int


class Baseline(Part):
    """The untouched model."""

    asr: Rate | None
    refusal: Rate
    degenerate: Rate
    harmless_refused: Rate
    borderline_refused: Rate
    perplexity: Perplexity


class UtilityCalibration(Part):
    """Harmless requests asked, and kept for scoring."""

    num_asked: int
    num_kept: int


class SafetyCalibration(UtilityCalibration):
    """Harmful requests asked, refused, and kept for scoring."""

    num_refused: int | None  # None where the source brought responses


class Calibration(Part):
    """Which prompts the scores were computed from."""

    safety: SafetyCalibration
    utility: UtilityCalibration


class ScorePass(Part):
    """One scoring pass."""

    num_examples: int
    num_tokens: int
    seconds: float


class Scores(Part):
    """The scoring method and its two passes."""

    method: str
    safety: ScorePass
    utility: ScorePass


class LayerOverlap(Part):
    """Jaccard index of the safety and utility tops in one layer."""

    layer: int
    jaccard: float | None  # None where neither top has a weight here
    chance: float | None
    noise_floor: float | None


class Overlap(Part):
    """Jaccard index of the safety and utility tops at one top fraction, in the whole model."""

    fraction: float
    jaccard: float
    chance: float
    noise_floor_safety: float | None
    noise_floor_utility: float | None
    num_both: int
    num_safety: int
    num_utility: int
    by_layer: list[LayerOverlap]


class Difference(Part):
    """A paired difference of two rates, as a fraction; None where no pair was judged."""

    value: float | None
    interval: Interval | None
    num_pairs: int
    p_value: float | None


class Cell(Part):
    """One set of weights removed, and what it did. `of` names the cell it is a control of."""

    id: str
    arm: Arm
    of: str
    q: float
    p: float
    seed: int | None
    num_selected: int
    num_weights: int
    fraction: float
    fraction_of_all: float
    destroyed: bool
    why_destroyed: str | None
    asr: Rate | None
    refusal: Rate
    complied: Rate
    degenerate: Rate
    harmless_refused: Rate
    borderline_refused: Rate
    perplexity: float | None
    perplexity_ratio: float | None
    asr_change: Difference | None
    perplexity_interval: Interval | None = None  # this and the rest: not in older files
    degenerate_change: Difference | None = None
    harmless_refused_change: Difference | None = None
    borderline_refused_change: Difference | None = None
    magnitudes: dict[str, float | None] | None = None  # of a matched control and its set

    @property
    def asr_value(self) -> float | None:
        """The attack success rate, or None where the model was destroyed or nothing judged."""
        return None if self.destroyed or self.asr is None else self.asr.value


class Control(Part):
    """All controls of one arm at the size of the cell that carries the verdict.

    `asr_rise` is that of the strongest of them, `margin` what the set rises more than it.
    """

    arm: Arm
    num_cells: int
    num_destroyed: int
    perplexity_ratio: float | None
    cell: str | None
    asr_rise: Difference | None
    margin: Difference | None

    @property
    def rise(self) -> float | None:
        """The rise of the strongest, None where no working one was judged."""
        return self.asr_rise.value if self.asr_rise else None


class Rule(Part):
    """The thresholds of the verdict."""

    min_asr_rise: float
    max_perplexity_ratio: float
    max_degenerate: float


class AuditVerdict(Part):
    """The answer of the audit, and the numbers it rests on."""

    answer: Literal["brittle", "not shown", "undecided"]
    sentence: str
    reasons: list[str]
    cell: str | None
    fraction: float | None
    fraction_interval: Interval | None
    asr_rise: Difference | None
    controls: list[Control]
    rule: Rule


class Grid(Part):
    """Where one set lies: `share[layer][module]` of that matrix; None where there is none."""

    layers: list[int]
    modules: list[str]
    share: list[list[float | None]]
    counts: list[list[int | None]]

    @model_validator(mode="after")
    def _is_a_grid(self) -> "Grid":
        height, width = len(self.layers), len(self.modules)
        for name, grid in (("share", self.share), ("counts", self.counts)):
            if [len(row) for row in grid] != [width] * height:
                raise ValueError(f"{name} must have {height} rows of {width} modules")
        return self


class Where(Grid):
    """Where the set of one cell lies."""

    cell: str


class Stage(Part):
    """One stage of the run; `reused` where an earlier run's result was taken."""

    name: str
    seconds: float
    reused: bool


class Run(Part):
    """What ran, on what."""

    command: str
    started: str
    finished: str
    seconds: float
    python: str
    torch: str
    transformers: str
    platform: str
    num_threads: int
    commit: str | None
    other_versions: list[dict[str, Any]] = []  # of stages that were kept; see `describe_run`
    stages: list[Stage]
    hashes: dict[str, str]


class Metrics(Part):
    """All that metrics.json holds."""

    schema_: Literal[1] = Field(alias="schema")
    safetypin: str
    preset: str
    settings: dict[str, Any]
    model: Model
    judge: Judge
    prompts: dict[str, Prompts]
    baseline: Baseline
    calibration: Calibration | None
    scores: Scores | None
    overlap: list[Overlap]
    cells: list[Cell]
    verdict: AuditVerdict
    where: Where | None
    run: Run

    @model_validator(mode="after")
    def _names_only_known_cells(self) -> "Metrics":
        known = {cell.id for cell in self.cells}
        named = {self.verdict.cell, *(cell.of for cell in self.cells)} - {None}
        if unknown := named - known:
            raise ValueError(f"cells {sorted(map(str, unknown))} are named but not among 'cells'")
        return self

    def cell(self, cell_id: str | None) -> Cell | None:
        """Return the cell of that id, or None for None."""
        return next((cell for cell in self.cells if cell.id == cell_id), None)
