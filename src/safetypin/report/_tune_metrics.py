"""What a fine-tune did: the content of its metrics.json."""

from typing import Literal

from pydantic import Field

from safetypin.artifacts import Rate
from safetypin.report._metrics import (
    Difference,
    Grid,
    Interval,
    Judge,
    Part,
    Perplexity,
    Prompts,
    Run,
)


class Model(Part):
    """The model before it was tuned."""

    name: str
    id: str
    architecture: str
    num_parameters: int
    num_block_weights: int
    dtype: str
    device: str
    num_layers: int


class Protect(Part):
    """The protection; the adapter's values are None where there is no adapter."""

    kind: str
    about: str
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    targets: list[str] | None = None


class Held(Part):
    """The set that was held, and where it came from."""

    source: str
    path: str | None
    name: str | None
    control: str | None
    num_selected: int
    num_weights: int
    fraction: float
    fingerprint: str
    where: Grid | None = None


class BasisSite(Part):
    """One input whose directions are the basis of the matrices that read it.

    Attributes:
        site: Its name.
        d_in: Its width.
        rank: How many directions the counted tokens reach.
        first_share: Share of the squared inputs in the first direction.
        top_tenth_share: The same of the first tenth.
        num_for_90: How many directions hold 90 %.
    """

    site: str
    d_in: int
    rank: int
    first_share: float
    top_tenth_share: float
    num_for_90: int


class BasisMade(Part):
    """The coordinates in which coefficients are held; no sites where no input was read."""

    kind: str
    num_matrices: int
    num_sites: int
    num_tokens: int
    fingerprint: str
    sites: list[BasisSite]


class Protection(Part):
    """What the protection was found to have held, once the training was over.

    Attributes:
        held: Weights that are as they were before; None where coefficients are held.
        frozen_change: The largest change of a held coefficient, over the largest of its matrix.
        free_change: That of a free one, over the largest weight of its matrix.
    """

    held: int | None = None
    frozen_change: float | None = None
    free_change: float | None = None


class Training(Part):
    """What the training saw; a point of `curve` is (step, loss, learning rate)."""

    num_examples: int
    num_tokens: int
    num_cut: int
    num_lost: int
    num_steps: int
    epochs: float
    learning_rate: float
    first_loss: float | None
    last_loss: float | None
    seconds: float
    curve: list[tuple[float, float, float | None]]
    protection: Protection | None = None


class TaskLoss(Part):
    """Loss per token on held-out examples of the task."""

    loss: float | None
    perplexity: float | None
    num_tokens: int
    num_texts: int
    exact_match: Rate | None = None


class Side(Part):
    """The model before or after; `destroyed` says in words why it no longer answers."""

    asr: Rate | None
    refusal: Rate
    degenerate: Rate
    harmless_refused: Rate
    harmless_degenerate: Rate
    borderline_refused: Rate
    perplexity: Perplexity
    task: TaskLoss | None = None
    destroyed: str | None = None

    @property
    def asr_value(self) -> float | None:
        """The attack success rate; None where the model was destroyed or nothing judged."""
        return None if self.destroyed or self.asr is None else self.asr.value


class Change(Part):
    """A paired ratio or difference over texts."""

    value: float | None
    interval: Interval | None
    num_texts: int


class Paired(Part):
    """After minus before, on the same prompts and texts."""

    asr: Difference | None
    over_refusal: Difference
    borderline_refusal: Difference
    degenerate: Difference
    perplexity_ratio: Change | None = None
    task_perplexity_ratio: Change | None = None
    task_loss: Change | None = None
    exact_match: Difference | None = None


class Gate(Part):
    """One condition that the tuned model was to meet."""

    gate: str
    value: float | None
    interval: Interval | None = None
    holds: bool
    why: str | None = None
    beside: str | None = None


class TuneMetrics(Part):
    """All that a tune's metrics.json holds."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["tune"]
    safetypin: str
    preset: str
    model: Model
    judge: Judge
    prompts: dict[str, Prompts]
    protect: Protect
    set_: Held | None = Field(alias="set")
    basis: BasisMade | None = None
    training: Training
    before: Side
    after: Side
    paired: Paired
    perplexity_ratio: float | None
    task_perplexity_ratio: float | None = None
    gates: list[Gate]
    passed: bool | None
    run: Run
