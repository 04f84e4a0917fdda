"""A guard beside its controls: other sets of units, and what needs no model, on the same split."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safetypin.artifacts import NeuronSet
from safetypin.predict import (
    BASELINES,
    CLASSIFIERS,
    Features,
    Labelled,
    Linear,
    baseline_scores,
    calibration,
    fit_linear,
    measures,
    rates_at,
    span_of,
    threshold_at,
)
from safetypin.select import random_neurons
from safetypin.statistics import paired_difference

CURVE = (0.1, 0.2, 0.4, 0.7, 1.0)  # shares of the training groups
Units = dict[str, NDArray[np.int64]]
Vector = NDArray[np.float64]
ALL = ("all", None)  # the units of `pca` too


class Fit(NamedTuple):
    """A classifier of a set of units: `seed` is that of a random set."""

    arm: str
    classifier: str
    seed: int | None
    units: Units
    linear: Linear


class Bench:
    """Fits and measures every set of units on one split.

    Attributes:
        parts: Labelled prompts of `train`, `test` and, where there is one, `other`.
        places: Their rows among the features.
    """

    def __init__(
        self,
        features: Features,
        parts: Mapping[str, Labelled],
        neurons: NeuronSet,
        *,
        false_positive_rate: float,
        seed: int,
    ) -> None:
        self._features, self.parts, self._neurons = features, parts, neurons
        self._rate, self._seed = false_positive_rate, seed
        self.places: dict[str, range] = {}
        start = 0
        for name, part in parts.items():
            self.places[name] = range(start, start + len(part))
            start += len(part)

    def units_of(self, arm: str, seed: int | None = None) -> Units:
        """Return the units of a set: `contrast`, `random`, or all for `pca` and `all`."""
        if arm in {"pca", "all"}:
            return {name: np.arange(self._features[name].shape[1]) for name in self._features.names}
        chosen = self._neurons if seed is None else random_neurons(self._neurons, seed=seed)
        found = {n: m.nonzero()[:, 0].numpy() for n, m in chosen.tensors.items() if m.any()}
        return {name: found[name] for name in self._features.names if name in found}

    def fits(self, arm: str, classifiers: Sequence[str], seed: int | None = None) -> list[Fit]:
        """Fit classifiers on the training prompts: of an arm, and for `all` of `pca` too."""
        units, train = self.units_of(arm, seed), self.parts["train"]
        span = span_of(self._features.rows(self.places["train"], units))
        return [
            Fit(
                name,
                classifier,
                seed,
                units,
                fit_linear(
                    span,
                    train.labels,
                    train.groups,
                    classifier=classifier,
                    pca=name == "pca",
                    seed=self._seed,
                ),
            )
            for classifier in classifiers
            for name in (("pca", "all") if arm == "all" else (arm,))
        ]

    def row(self, fit: Fit) -> dict[str, Any]:
        """Return what one classifier measures on every other part."""
        fitted, units = fit.linear, fit.units
        found = self._measured(
            fitted.probability(fitted.held_out),
            {name: self._chances(fitted, units, name) for name in self._tested},
        )
        size = sum(map(len, units.values()))
        return {
            "features": fit.arm,
            "classifier": fit.classifier,
            "seed": fit.seed,
            "num_features": fitted.num_components or size,
            "num_units": size,
            **found,
        }

    @property
    def _tested(self) -> list[str]:
        return [name for name in self.parts if name != "train"]

    def _chances(self, fitted: Linear, units: Units, part: str) -> Vector:
        return fitted.probability(fitted.decide(self._features.rows(self.places[part], units)))

    def _measured(self, held_out: Vector, scores: Mapping[str, Vector]) -> dict[str, Any]:
        """Measure at two thresholds: one half, and the one of the stated false-positive rate."""
        train = self.parts["train"]
        limit = threshold_at(held_out, train.labels, self._rate)
        found: dict[str, Any] = {"limit": limit}
        for name, values in scores.items():
            labels = self.parts[name].labels
            found[name] = measures(values, labels, 0.5)
            found[name]["at_limit"] = rates_at(values, labels, limit)
            found[name]["correct"] = [
                int((value >= 0.5) == bool(label))
                for value, label in zip(values, labels, strict=True)
            ]
            found[name]["calibration"] = calibration(values, labels)
        return found

    def baseline(self, name: str) -> dict[str, Any]:
        """Return what a baseline without a model measures."""
        train = self.parts["train"]
        others = [self.parts[part].texts for part in self._tested]
        held_out, found = baseline_scores(
            name, train.texts, train.labels, train.groups, others, seed=self._seed
        )
        chances = [1 / (1 + np.exp(-part)) for part in found]
        rows = dict(zip(self._tested, chances, strict=True))
        measured = self._measured(1 / (1 + np.exp(-held_out)), rows)
        blank = {"classifier": "logistic", "seed": None, "num_features": None, "num_units": 0}
        return {"features": name, **blank, **measured}

    def table(self, num_random: int, chosen: tuple[str, str]) -> tuple[list[dict[str, Any]], Fit]:
        """Return the rows of every set with every classifier, then of the baselines.

        And the fit of a set and a classifier that are chosen to be kept.
        """
        found, kept = [], None
        for arm, seed in (("contrast", None), *(("random", s) for s in range(num_random)), ALL):
            for fit in self.fits(arm, CLASSIFIERS, seed):
                found.append(self.row(fit))
                kept = fit if (fit.arm, fit.classifier) == chosen and not fit.seed else kept
        assert kept is not None
        found.sort(key=lambda row: CLASSIFIERS.index(row["classifier"]))
        return [*found, *(self.baseline(name) for name in BASELINES)], kept

    def curve(self, classifier: str) -> list[dict[str, Any]]:
        """Return the area on the test part against the number of training prompts.

        `contrast`, `random` (seed 0) and `tfidf-char` by name, and `intervals` with theirs.
        """
        train, rows = self.parts["train"], []
        groups = list(dict.fromkeys(train.groups))
        np.random.default_rng(self._seed).shuffle(groups)
        for share in CURVE:
            kept = set(groups[: max(round(share * len(groups)), 1)])
            chosen = [i for i, group in enumerate(train.groups) if group in kept]
            labels = train.take(chosen).labels
            if min(sum(labels), len(labels) - sum(labels)) >= 5:
                areas = self._areas(chosen, classifier)
                rows.append(
                    {
                        "num_prompts": len(chosen),
                        **{name: area["value"] for name, area in areas.items()},
                        "intervals": {name: area["interval"] for name, area in areas.items()},
                    }
                )
        return rows

    def _areas(self, chosen: list[int], classifier: str) -> dict[str, Any]:
        """Return the areas on the test part of classifiers fitted on some training prompts."""
        part, test = self.parts["train"].take(chosen), self.parts["test"]
        areas = {}
        for name, seed in (("contrast", None), ("random", 0)):
            units = self.units_of(name, seed)
            rows = self._features.rows(chosen, units)
            found = fit_linear(
                rows, part.labels, part.groups, classifier=classifier, seed=self._seed
            )
            scores = self._chances(found, units, "test")
            areas[name] = measures(scores, test.labels, 0.5)["roc_auc"]
        words = baseline_scores(
            "tfidf-char", part.texts, part.labels, part.groups, [test.texts], seed=self._seed
        )[1][0]
        areas["tfidf-char"] = measures(words, test.labels, 0.0)["roc_auc"]
        return areas


def comparisons(rows: Sequence[Mapping[str, Any]], classifier: str) -> list[dict[str, Any]]:
    """Return the accuracy of the contrast set minus that of each other row, paired by prompt."""
    own = next(r for r in rows if r["features"] == "contrast" and r["classifier"] == classifier)
    found = []
    for other in rows:
        if other is own or (other["classifier"] != classifier and other["num_units"]):
            continue
        for part in ("test", "other"):
            if part in own:
                change = paired_difference(other[part]["correct"], own[part]["correct"])
                found.append(
                    {
                        "against": other["features"],
                        "seed": other["seed"],
                        "part": part,
                        **change.to_json(),
                    }
                )
    return found
