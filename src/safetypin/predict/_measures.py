"""How well scores tell unsafe from safe prompts, with intervals."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safetypin.artifacts import Rate, UserError

Vector = NDArray[np.float64]
NUM_RESAMPLES = 1000
NUM_BINS = 8


def threshold_at(scores: Vector, labels: Sequence[int], false_positive_rate: float) -> float:
    """Return the lowest threshold at which at most that share of safe prompts is called unsafe.

    A prompt counts as unsafe where its score is at least the threshold.

    Raises:
        UserError: The rate is outside [0, 1), or there is no safe prompt.
    """
    if not 0 <= false_positive_rate < 1:
        raise UserError(f"the false-positive rate must be in [0, 1), got {false_positive_rate:g}")
    safe = np.sort(np.asarray(scores)[np.asarray(labels) == 0])[::-1]
    if not len(safe):
        raise UserError("no safe prompt, so no false-positive rate; give safe prompts too")
    allowed = math.floor(false_positive_rate * len(safe) + 1e-9)
    return float(np.nextafter(safe[allowed], np.inf)) if allowed < len(safe) else float(safe[-1])


def check_threshold(threshold: float) -> None:
    """Raise unless a threshold is a probability.

    Raises:
        UserError: It is not.
    """
    if not 0 <= threshold <= 1:
        raise UserError(
            f"the threshold must be in [0, 1], got {threshold:g}; it is a probability, so 5 % is "
            "0.05"
        )


def measures(scores: Vector, labels: Sequence[int], threshold: float) -> dict[str, Any]:
    """Return all measures of scores against labels.

    Rates have Wilson intervals; F1 (`f1_interval`) and the areas bootstrap intervals over the same
    resamples of the prompts (1,000, seed 0).
    """
    target, given = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    size = len(target)
    drawn = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), NUM_RESAMPLES)
    counts = drawn.astype(np.float64)
    f1_interval = _f1_interval(given >= threshold, target, counts)
    found = rates_at(given, labels, threshold) | {"f1_interval": f1_interval}
    return found | _areas(given, target, counts)


def rates_at(scores: Vector, labels: Sequence[int], threshold: float) -> dict[str, Any]:
    """Return the confusion matrix at a threshold, and the rates that follow from it."""
    target, called = np.asarray(labels), np.asarray(scores) >= threshold
    true_positive, false_positive = (int((called & (target == one)).sum()) for one in (1, 0))
    false_negative, true_negative = (int((~called & (target == one)).sum()) for one in (1, 0))
    found: dict[str, Any] = {
        "confusion": [[true_negative, false_positive], [false_negative, true_positive]],
        "accuracy": _rate(true_positive + true_negative, len(target)),
        "recall": _rate(true_positive, true_positive + false_negative),
        "precision": _rate(true_positive, true_positive + false_positive),
        "false_positive_rate": _rate(false_positive, false_positive + true_negative),
        "threshold": threshold,
    }
    wrong = false_positive + false_negative
    found["f1"] = 2 * true_positive / (2 * true_positive + wrong) if true_positive + wrong else None
    return found


def _rate(hits: int, trials: int) -> dict[str, object]:
    return Rate(num_hits=hits, num_judged=trials).to_json()


def _f1_interval(
    called: NDArray[np.bool_], target: NDArray[np.int64], counts: Vector
) -> list[float] | None:
    """Return the interval of F1; None where no resample has one."""
    twice = 2 * counts @ (called & (target == 1))
    all_told = twice + counts @ (called != (target == 1))
    known = all_told > 0
    return _ends(twice[known] / all_told[known]) if known.any() else None


def _ends(values: Vector) -> list[float]:
    return [float(end) for end in np.quantile(values, [0.025, 0.975])]


def _areas(scores: Vector, target: NDArray[np.int64], counts: Vector) -> dict[str, Any]:
    if len(set(target.tolist())) < 2:
        none = {"value": None, "interval": None}
        return {"roc_auc": none, "average_precision": none}
    values = areas(scores, target, np.ones((1, len(target))))
    resampled = areas(scores, target, counts)
    found = {}
    for name, value, others in zip(
        ("roc_auc", "average_precision"), values, resampled, strict=True
    ):
        found[name] = {"value": float(value[0]), "interval": _ends(others[np.isfinite(others)])}
    return found


def areas(scores: Vector, target: NDArray[np.int64], counts: Vector) -> tuple[Vector, Vector]:
    """Return the areas under the ROC curve and the precision-recall curve of many resamples.

    Args:
        scores: One for each prompt.
        target: 1 for unsafe.
        counts: `(resamples, prompts)`, how often each prompt is in each resample.

    Returns:
        Both as `(resamples,)`, NaN where a resample has one class alone. Prompts of equal score
        are passed by the threshold together.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    weighed = counts[:, order]
    hits = np.cumsum(weighed * (target[order] == 1), axis=1)[:, last]
    alarms = np.cumsum(weighed * (target[order] == 0), axis=1)[:, last]
    start = np.zeros((len(counts), 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = np.hstack([start, hits / hits[:, -1:]])
        fall_out = np.hstack([start, alarms / alarms[:, -1:]])
        precision = np.where(hits + alarms > 0, hits / (hits + alarms), 0.0)
        roc = (np.diff(fall_out, axis=1) * (recall[:, 1:] + recall[:, :-1]) / 2).sum(axis=1)
        average = (np.diff(recall, axis=1) * precision).sum(axis=1)
    average[~np.isfinite(roc)] = np.nan
    return roc, average


def calibration(chances: Vector, labels: Sequence[int]) -> list[dict[str, Any]]:
    """Return mean predicted probability and share of unsafe prompts in bins of equal count."""
    target, order = np.asarray(labels), np.argsort(chances, kind="stable")
    rows = []
    for part in np.array_split(order, min(NUM_BINS, len(order))):
        hits = int(target[part].sum())
        rows.append({"predicted": float(chances[part].mean()), "unsafe": _rate(hits, len(part))})
    return rows
