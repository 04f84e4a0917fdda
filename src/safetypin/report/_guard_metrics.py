"""What a guard's run found: the content of its metrics.json."""

from typing import Any, Literal

from pydantic import Field

from safetypin.artifacts import Rate
from safetypin.report._findings import RunPart
from safetypin.report._metrics import Interval, Part


class Area(Part):
    """An area under a curve, with its bootstrap interval."""

    value: float | None
    interval: Interval | None


class AtLimit(Part):
    """Rates at the threshold of the stated false-positive rate."""

    recall: Rate
    false_positive_rate: Rate


class Bin(Part):
    """One bin of the calibration curve."""

    predicted: float
    unsafe: Rate


class Measured(Part):
    """One classifier on one part."""

    accuracy: Rate
    recall: Rate
    precision: Rate
    f1: float | None
    f1_interval: Interval | None = None  # none in metrics of older versions
    roc_auc: Area
    average_precision: Area
    confusion: list[list[int]]
    at_limit: AtLimit
    calibration: list[Bin]


class Row(Part):
    """One classifier."""

    features: str
    classifier: str
    seed: int | None
    num_features: int | None
    test: Measured
    other: Measured | None = None


class Comparison(Part):
    """Accuracy of the contrast units minus that of another row, paired by prompt."""

    against: str
    seed: int | None
    part: str
    value: float | None
    interval: Interval | None
    p_value: float | None


class Data(Part):
    """What it was fitted and tested on."""

    num_train: int
    num_test: int
    num_other: int | None
    num_duplicates: int
    num_groups: int
    num_matched_topics: int
    easy: bool
    tfidf_accuracy: float


class GuardMetrics(RunPart):
    """All that a guard's metrics.json holds."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["guard"]
    model_id: str
    neurons: dict[str, Any]
    data: Data
    threshold: float
    rows: list[Row]
    comparisons: list[Comparison]
    curve: list[dict[str, Any]]
