"""Scoring methods. A new one is a file beside this one and a line in SCORERS."""

import inspect
from collections.abc import Callable

from safetypin.artifacts import WeightScores
from safetypin.scores._ablation_effect import ablation_effects, mean_scores
from safetypin.scores._coefficients import coefficient_gradients, random_coefficients
from safetypin.scores._contrast import SCALES, WEIGHTINGS, Model, contrast, contrast_parts, record
from safetypin.scores._differences import Recorded
from safetypin.scores._heads import probe_heads
from safetypin.scores._magnitude import magnitude
from safetypin.scores._magnitude_difference import magnitude_difference
from safetypin.scores._merge import merge
from safetypin.scores._random import random_scores
from safetypin.scores._snip import snip
from safetypin.scores._sparsegpt import sparsegpt
from safetypin.scores._unit_means import unit_means
from safetypin.scores._wanda import wanda

SCORERS: dict[str, Callable[..., WeightScores]] = {
    "magnitude": magnitude,
    "magnitude-difference": magnitude_difference,
    "random": random_scores,
    "snip": snip,
    "sparsegpt": sparsegpt,
    "wanda": wanda,
}


def needs_reference(method: str) -> bool:
    """Tell whether a scoring method compares with another model, its argument `reference`."""
    return "reference" in inspect.signature(SCORERS[method]).parameters


__all__ = [
    "SCALES",
    "SCORERS",
    "WEIGHTINGS",
    "Model",
    "Recorded",
    "ablation_effects",
    "coefficient_gradients",
    "contrast",
    "contrast_parts",
    "magnitude",
    "magnitude_difference",
    "mean_scores",
    "merge",
    "needs_reference",
    "probe_heads",
    "random_coefficients",
    "random_scores",
    "record",
    "snip",
    "sparsegpt",
    "unit_means",
    "wanda",
]
