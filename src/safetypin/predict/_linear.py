"""Linear classifiers over many standardised features, fitted in the span of the examples.

With fewer examples than features, what a ridge penalty finds lies in the span of the examples. So
the examples are rotated into it once (X = Z V^T, from their Gram matrix), everything is fitted in
as many dimensions as there are examples, and the weights are rotated back: the same solution, in
seconds where 92,160 features take minutes. The leading columns of Z are the principal components.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from safetypin.artifacts import UserError
from safetypin.predict._data import group_folds

Matrix = NDArray[np.float32]
Vector = NDArray[np.float64]

CLASSIFIERS = ("logistic", "svm")
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # candidates for the inverse penalty, by cross-validation
NUM_FOLDS = 5
MAX_ITERATIONS = 5000
PCA_SHARE = 0.95  # of the variance, as in document 004
CHUNK = 4096  # features standardised at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear:
    """A fitted classifier: `sigmoid(slope * ((x - mean) / scale @ weights + bias) + offset)`.

    Attributes:
        mean: Of every feature over the training prompts.
        scale: Standard deviation, 1 where it is 0.
        weights: Of the standardised features.
        bias: Added to their sum.
        slope: Calibration (Platt), fitted on decisions of prompts that were held out.
        offset: Likewise.
        strength: Inverse penalty that cross-validation chose.
        num_components: Principal components that were kept; None for all.
        held_out: Decision on each training prompt by a classifier that did not see its group.
    """

    mean: Vector
    scale: Vector
    weights: Vector
    bias: float
    slope: float
    offset: float
    strength: float
    num_components: int | None
    held_out: Vector

    def decide(self, features: Matrix) -> Vector:
        """Return a number for each row: the larger, the more like an unsafe prompt."""
        factor = self.weights / self.scale
        decisions: Vector = features.astype(np.float64) @ factor - self.mean @ factor + self.bias
        return decisions

    def probability(self, decisions: Vector) -> Vector:
        """Return calibrated probabilities of being unsafe."""
        found: Vector = expit(self.slope * decisions + self.offset)
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """Standardised examples in their own span, which every classifier of the same features shares.

    Attributes:
        features: `(prompts, units)`.
        mean: Of every feature.
        scale: Its standard deviation, 1 where it is 0.
        rotated: The examples in their span, Z, the leading principal component first.
        back: U / S, with which `X^T U / S` are the axes of the span.
    """

    features: Matrix
    mean: Vector
    scale: Vector
    rotated: Vector
    back: Vector


def span_of(features: Matrix) -> Span:
    """Rotate examples into their own span: most of the work of a fit, and the same for all.

    Raises:
        UserError: Features that are not finite.
    """
    check_features(features)
    mean, scale = _moments(features)
    rotated, back = _rotated(features, mean, scale)
    return Span(features=features, mean=mean, scale=scale, rotated=rotated, back=back)


def fit_linear(
    features: Matrix | Span,
    labels: Sequence[int],
    groups: Sequence[str],
    *,
    classifier: str = "logistic",
    pca: bool = False,
    seed: int = 0,
) -> Linear:
    """Fit a classifier; its penalty and its calibration come from cross-validation by group.

    Args:
        features: `(prompts, units)`, or their span where several classifiers are fitted on them.
        labels: 1 unsafe, 0 safe.
        groups: Kept together in one fold.
        classifier: `logistic` or `svm`, both with a ridge penalty.
        pca: Keep the principal components that hold 95 % of the variance.
        seed: Of the folds.

    Raises:
        UserError: An unknown classifier, or features that are not finite.
    """
    if classifier not in CLASSIFIERS:
        raise UserError(
            f"unknown classifier {classifier!r}; choose one of {', '.join(CLASSIFIERS)}"
        )
    span = features if isinstance(features, Span) else span_of(features)
    target, rotated, back = np.asarray(labels), span.rotated, span.back
    num_components = None
    if pca:
        energy = np.cumsum(np.square(rotated).sum(axis=0))
        num_components = int(np.searchsorted(energy, PCA_SHARE * energy[-1]) + 1)
        rotated, back = rotated[:, :num_components], back[:, :num_components]
    folds = group_folds(groups, NUM_FOLDS, seed)
    strength, held_out = _best(rotated, target, folds, classifier)
    weights, bias = _fit(rotated, target, classifier, strength)
    slope, offset = _platt(held_out, target)
    return Linear(
        mean=span.mean,
        scale=span.scale,
        weights=_unrotated(span.features, span.mean, span.scale, back @ weights),
        bias=bias,
        slope=slope,
        offset=offset,
        strength=strength,
        num_components=num_components,
        held_out=held_out,
    )


def check_features(features: Matrix) -> None:
    """Raise unless all features are finite numbers.

    Raises:
        UserError: They are not.
    """
    bad = int((~np.isfinite(features)).sum())
    if bad:
        raise UserError(
            f"{bad:,} of the features are not finite numbers: activations overflow float16 in some "
            "units; load the model in bfloat16 or float32"
        )


def _moments(features: Matrix) -> tuple[Vector, Vector]:
    mean = features.mean(axis=0, dtype=np.float64)
    scale = np.empty_like(mean)
    for start in range(0, features.shape[1], CHUNK):
        part = features[:, start : start + CHUNK].astype(np.float64)
        scale[start : start + CHUNK] = part.std(axis=0)
    scale[scale == 0] = 1.0
    return mean, scale


def _standardised(features: Matrix, mean: Vector, scale: Vector, part: slice) -> Vector:
    found: Vector = (features[:, part].astype(np.float64) - mean[part]) / scale[part]
    return found


def _parts(features: Matrix) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, features.shape[1], CHUNK)]


def _rotated(features: Matrix, mean: Vector, scale: Vector) -> tuple[Vector, Vector]:
    """Return the examples in their own span, Z, and U / S, with which `X^T U / S` are its axes."""
    gram = np.zeros((len(features), len(features)))
    for part in _parts(features):
        rows = _standardised(features, mean, scale, part)
        gram += rows @ rows.T
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * 1e-10
    order = np.flatnonzero(kept)[::-1]
    roots = np.sqrt(values[order])
    return vectors[:, order] * roots, vectors[:, order] / roots


def _unrotated(features: Matrix, mean: Vector, scale: Vector, duals: Vector) -> Vector:
    parts = [_standardised(features, mean, scale, part).T @ duals for part in _parts(features)]
    return np.concatenate(parts)


def _fit(
    rows: Vector, target: NDArray[np.int64], kind: str, strength: float
) -> tuple[Vector, float]:
    if kind == "svm":
        model = LinearSVC(C=strength, max_iter=MAX_ITERATIONS, dual="auto", random_state=0)
    else:
        model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
    model.fit(rows, target)
    return model.coef_[0], float(model.intercept_[0])


def _best(
    rows: Vector, target: NDArray[np.int64], folds: NDArray[np.int64], kind: str
) -> tuple[float, Vector]:
    """Return the strength with the least loss on held-out folds, and the decisions there."""
    best: tuple[float, float, Vector] | None = None
    for strength in STRENGTHS:
        held_out = np.zeros(len(rows))
        for fold in range(NUM_FOLDS):
            inside = folds == fold
            if not inside.any():
                continue
            if len(set(target[~inside].tolist())) < 2:
                raise UserError(
                    "all prompts of one class are in one group, so nothing can be held out; give "
                    "prompts of more topics"
                )
            weights, bias = _fit(rows[~inside], target[~inside], kind, strength)
            held_out[inside] = rows[inside] @ weights + bias
        slope, offset = _platt(held_out, target)
        chances = np.clip(expit(slope * held_out + offset), 1e-9, 1 - 1e-9)
        loss = -float(np.mean(np.where(target == 1, np.log(chances), np.log(1 - chances))))
        if best is None or loss < best[0] - 1e-9:
            best = loss, strength, held_out
    assert best is not None
    return best[1], best[2]


def _platt(decisions: Vector, target: NDArray[np.int64]) -> tuple[float, float]:
    """Return slope and offset of a logistic curve through decisions. Platt 1999."""
    size = float(np.std(decisions)) or 1.0
    model = LogisticRegression(C=1e3, max_iter=MAX_ITERATIONS)
    model.fit(decisions[:, None] / size, target)
    # a guard that ranks the wrong way round on held-out prompts knows nothing
    return max(float(model.coef_[0][0]) / size, 0.0), float(model.intercept_[0])
