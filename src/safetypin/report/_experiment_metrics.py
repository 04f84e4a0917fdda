"""What an experiment found: the content of its metrics.json."""

from typing import Literal

from pydantic import Field

from safetypin.artifacts import Rate
from safetypin.report._metrics import Difference, Interval, Judge, Part


class Outcome(Part):
    """What one training did to refusals, language and task."""

    asr_before: Rate | None
    asr_after: Rate | None
    asr_rise: Difference | None
    refused_before: Rate
    refused_after: Rate
    over_refusal_rise: Difference
    degenerate_after: Rate
    destroyed: str | None
    perplexity_ratio: float | None
    task_perplexity_ratio: float | None
    task_loss_after: float | None = None
    exact_match_after: Rate | None = None
    num_steps: int


class Movement(Part):
    """How far the critical set moved; all None where not a weight of it could change."""

    is_held: bool
    value: float | None
    ratio: float | None
    of_matched: float | None
    p_value: float | None
    trainable_share: float


class Scores(Part):
    """What became of the critical set's safety scores; shares of the mean that were lost.

    The relative ones are of the mean over that of matched random weights.
    """

    drop: float | None
    interval: Interval | None
    relative_drop: float | None
    relative_interval: Interval | None
    relative_noise: float | None
    control_drop: float | None
    control_relative_drop: float | None = None
    control_relative_interval: Interval | None = None
    rank_change: float


class Overlap(Part):
    """How much of a set is in the one that is made anew, beside what it would be otherwise."""

    share: float | None
    jaccard: float | None
    chance_jaccard: float | None
    noise_jaccard: float | None
    control_jaccard: float | None


class Reports(Part):
    """The pages of one training, relative to the experiment's."""

    tune: str
    track: str | None


class TrainingRow(Part):
    """What one training showed."""

    seed: int
    reports: Reports
    outcome: Outcome
    drift: Movement | None
    scores: Scores | None
    overlap: Overlap | None
    overlaps: dict[str, Overlap] = Field(default_factory=dict)


class Spread(Part):
    """A number over the seeds; `interval` is Student's, None for one seed."""

    values: list[float | None]
    mean: float | None
    sd: float | None
    interval: Interval | None


class ArmResult(Part):
    """One way to train, with every seed."""

    arm: str
    about: str
    protect: str
    runs: list[TrainingRow]
    spread: dict[str, Spread]


class Beside(Part):
    """The first arm minus another, in one number; `interval` covers prompts and seeds."""

    value: float | None
    interval: Interval | None


class Answer(Part):
    """What is said of one hypothesis; `differences` where two arms are compared."""

    hypothesis: str
    claim: str
    answer: Literal["supported", "not supported", "undecided", "not asked"]
    sentences: list[str]
    differences: dict[str, Beside] = Field(default_factory=dict)


class ExperimentSet(Part):
    """The safety-critical set that is held or followed."""

    name: str
    num_selected: int
    num_weights: int
    fraction: float
    fingerprint: str


class PartTime(Part):
    """One part of the experiment and its time."""

    name: str
    seconds: float
    reused: bool


class ExperimentRun(Part):
    """When, where and by which command it was run."""

    started: str
    finished: str
    seconds: float
    command: str
    python: str
    torch: str
    transformers: str
    platform: str
    num_threads: int
    commit: str | None
    parts: list[PartTime]


class ExperimentMetrics(Part):
    """All that an experiment's metrics.json holds."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["experiment"]
    safetypin: str
    title: str
    about: str
    scale: str
    seeds: list[int]
    settings: dict[str, object]
    set_: ExperimentSet | None = Field(alias="set")
    judge: Judge | None = None
    arms: list[ArmResult] = Field(min_length=1)
    hypotheses: str
    verdict: list[Answer]
    run: ExperimentRun
