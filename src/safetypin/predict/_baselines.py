"""What needs no model: the words, the characters, the length. A guard must beat them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from safetypin.predict._data import group_folds
from safetypin.predict._linear import MAX_ITERATIONS, STRENGTHS

Vector = NDArray[np.float64]
FOLDS = 5


def _tfidf(
    train: Sequence[str], others: Sequence[Sequence[str]], **options: object
) -> list[sparse.csr_matrix]:
    vectorizer = TfidfVectorizer(sublinear_tf=True, **options)
    return [vectorizer.fit_transform(train), *(vectorizer.transform(texts) for texts in others)]


def _characters(train: Sequence[str], others: Sequence[Sequence[str]]) -> list[sparse.csr_matrix]:
    return _tfidf(train, others, analyzer="char_wb", ngram_range=(1, 3))


def _words(train: Sequence[str], others: Sequence[Sequence[str]]) -> list[sparse.csr_matrix]:
    return _tfidf(train, others, analyzer="word", ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")


def _length(train: Sequence[str], others: Sequence[Sequence[str]]) -> list[sparse.csr_matrix]:
    rows = [
        [[len(text) / 100, len(text.split()) / 20] for text in texts] for texts in (train, *others)
    ]
    return [sparse.csr_matrix(np.array(part).reshape(-1, 2)) for part in rows]


def _nothing(train: Sequence[str], others: Sequence[Sequence[str]]) -> list[sparse.csr_matrix]:
    return [sparse.csr_matrix(np.zeros((len(texts), 1))) for texts in (train, *others)]


Features = Callable[[Sequence[str], Sequence[Sequence[str]]], list[sparse.csr_matrix]]
BASELINES: dict[str, Features] = {
    "tfidf-char": _characters,
    "tfidf-word": _words,
    "length": _length,
    "majority": _nothing,
}


def baseline_scores(
    name: str,
    train: Sequence[str],
    labels: Sequence[int],
    groups: Sequence[str],
    others: Sequence[Sequence[str]],
    *,
    seed: int = 0,
) -> tuple[Vector, list[Vector]]:
    """Fit a baseline as a guard is fitted: the same folds, the same choice of the penalty.

    Returns:
        Decisions on each training prompt by a classifier that did not see its group, and on the
        other texts.
    """
    target = np.asarray(labels)
    folds = group_folds(groups, FOLDS, seed)
    best: tuple[float, float, Vector] | None = None
    for strength in (*STRENGTHS, 10.0, 100.0):
        held_out = np.zeros(len(train))
        for fold in range(FOLDS):
            inside = folds == fold
            if not inside.any() or len(set(target[~inside].tolist())) < 2:
                continue
            kept = [text for text, out in zip(train, inside, strict=True) if not out]
            held = [text for text, out in zip(train, inside, strict=True) if out]
            rows, there = BASELINES[name](kept, [held])
            model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
            held_out[inside] = model.fit(rows, target[~inside]).decision_function(there)
        chances = np.clip(1 / (1 + np.exp(-held_out)), 1e-9, 1 - 1e-9)
        loss = -float(np.mean(np.where(target == 1, np.log(chances), np.log(1 - chances))))
        if best is None or loss < best[0] - 1e-9:
            best = loss, strength, held_out
    assert best is not None
    rows, *found = BASELINES[name](train, others)
    model = LogisticRegression(C=best[1], max_iter=MAX_ITERATIONS).fit(rows, target)
    return best[2], [
        model.decision_function(part) if part.shape[0] else np.zeros(0) for part in found
    ]
