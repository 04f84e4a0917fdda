"""What a track found: the content of its metrics.json."""

from typing import Literal

from pydantic import Field, model_validator

from safetypin.report._map_metrics import DriftMap, OverlapMap, ScoreMap
from safetypin.report._metrics import Grid, Interval, Judge, Part, Prompts, Run
from safetypin.report._metrics import Model as Reference
from safetypin.report._tune_metrics import Paired, Side


class Trained(Part):
    """A training and its last checkpoint; `protection` is None where nobody knows."""

    folder: str
    path: str
    id: str
    step: int
    kind: Literal["full", "peft"]
    protection: str | None


class Checkpoint(Part):
    """One moment of the training."""

    step: int
    path: str
    kind: Literal["full", "peft"]


class ChosenSet(Part):
    """Where the safety-critical set comes from, and the shares that it is cut at."""

    source: str
    path: str | None
    name: str
    q: float
    p: float
    top: float | None = None
    group: str


class Group(Part):
    """A group of weights that is followed, and how many of it could change."""

    group: str
    about: str
    num_selected: int
    num_weights: int
    num_trainable: int
    fraction: float
    fingerprint: str
    where: Grid


class Measure(Part):
    """A measure of drift, in words."""

    measure: str
    help: str
    warning: str


class Drift(Part):
    """One measure of one group at one checkpoint.

    `expected` is what as many weights of the same matrices show; between `low` and `high` lie 95 %
    of random layouts of the same changes.
    """

    step: int
    group: str
    measure: str
    value: float | None
    expected: float | None
    low: float | None
    high: float | None
    spread: float | None
    num_weights: int
    num_trainable: int
    ratio: float | None
    p_value: float | None
    p_corrected: float | None


class RoleDrift(Drift):
    """The same in the matrices of one role, at the last checkpoint."""

    role: str


class Drifts(Part):
    """All drift."""

    measures: list[Measure]
    num_permutations: int
    notes: list[str]
    rows: list[Drift]
    roles: list[RoleDrift]
    maps: list[DriftMap]

    def row(self, step: int, group: str, measure: str) -> Drift | None:
        """Return one row over the whole model, or None."""
        wanted = (step, group, measure)
        return next((r for r in self.rows if (r.step, r.group, r.measure) == wanted), None)


class Pass(Part):
    """One scoring pass over the reference."""

    num_examples: int
    num_tokens: int


class Scores(Part):
    """How weights were scored, and on what."""

    method: str
    counted: str
    safety: Pass
    utility: Pass


class Relative(Part):
    """The fall of a mean score beside that of matched random weights."""

    value: float
    interval: Interval


class Dynamics(Part):
    """One score of one group before and after; `drop` is the share of the mean that was lost."""

    model: str
    score: str
    group: str
    num_weights: int
    mean_before: float
    mean_after: float
    sd_before: float
    sd_after: float
    p05_before: float
    p50_before: float
    p95_before: float
    p05_after: float
    p50_after: float
    p95_after: float
    drop: float | None
    drop_of_all: float | None
    drop_interval: Interval | None
    beyond_matched: Relative | None
    against_matched: Relative | None
    share_lower: float
    rank_before: float
    rank_after: float


class LayerDynamics(Part):
    """The fall of a set's mean score in one layer; older files have the critical set's alone."""

    model: str
    group: str = "critical"
    score: str
    layer: int
    num_weights: int
    drop: float | None
    drop_of_all: float | None


class Histogram(Part):
    """Scores of one group on bins of equal width in their logarithm."""

    score: str
    group: str
    edges: list[float]
    before: list[int]
    after: list[int]
    zeros_before: int
    zeros_after: int

    @model_validator(mode="after")
    def _has_ends(self) -> "Histogram":
        if self.edges and not len(self.edges) - 1 == len(self.before) == len(self.after):
            raise ValueError(f"{len(self.edges)} edges for {len(self.before)} bins")
        return self


class AllDynamics(Part):
    """All score dynamics."""

    rows: list[Dynamics]
    by_layer: list[LayerDynamics]
    histograms: list[Histogram]
    maps: list[ScoreMap] = Field(default_factory=list)
    notes: list[str]

    def row(self, group: str, *, model: str = "tuned", score: str = "safety") -> Dynamics | None:
        """Return one row over the whole model, or None."""
        wanted = (model, score, group)
        return next((r for r in self.rows if (r.model, r.score, r.group) == wanted), None)


class OverlapPart(Part):
    """What the old set and the one made anew share, beside chance, noise and the control."""

    group: str
    share: float | None
    jaccard: float | None
    chance_share: float | None
    chance_jaccard: float | None
    noise_share: float | None
    noise_jaccard: float | None
    control_share: float | None
    control_jaccard: float | None


class Overlap(OverlapPart):
    """The same over the whole model, with its counts."""

    num_before: int
    num_after: int
    num_both: int
    num_weights: int


class LayerOverlap(OverlapPart):
    """The same in one layer."""

    layer: int


class Overlaps(Part):
    """All overlaps."""

    rows: list[Overlap]
    by_layer: list[LayerOverlap]
    maps: list[OverlapMap] = Field(default_factory=list)


class Outcome(Part):
    """Both models on the same prompts."""

    is_evaluated_here: bool
    before: Side
    after: Side
    paired: Paired
    perplexity_ratio: float | None


class Finding(Part):
    """A question, its answer and the rule behind it."""

    question: str
    answer: str
    sentence: str
    rule: str


class TrackMetrics(Part):
    """All that a track's metrics.json holds."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["track"]
    safetypin: str
    preset: str
    reference: Reference
    tuned: Trained
    control: Trained | None
    checkpoints: list[Checkpoint]
    notes: list[str]
    judge: Judge
    prompts: dict[str, Prompts]
    set_: ChosenSet = Field(alias="set")
    groups: list[Group]
    drift: Drifts
    scores: Scores | None
    dynamics: AllDynamics | None
    overlap: Overlaps | None
    outcome: Outcome
    findings: list[Finding] = Field(min_length=1)
    run: Run
