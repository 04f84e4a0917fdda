"""Scoring methods. A new one is a file beside this one and a line in SCORERS."""

from collections.abc import Callable

from safetypin.artifacts import WeightScores
from safetypin.scores._ablation_effect import ablation_effects, mean_scores
from safetypin.scores._coefficients import coefficient_gradients, random_coefficients
from safetypin.scores._contrast import SCALES, WEIGHTINGS, contrast, record
from safetypin.scores._differences import Recorded
from safetypin.scores._heads import probe_heads
from safetypin.scores._magnitude import magnitude
from safetypin.scores._merge import merge
from safetypin.scores._random import random_scores
from safetypin.scores._snip import snip
from safetypin.scores._wanda import wanda

SCORERS: dict[str, Callable[..., WeightScores]] = {
    "magnitude": magnitude,
    "random": random_scores,
    "snip": snip,
    "wanda": wanda,
}

__all__ = [
    "SCALES",
    "SCORERS",
    "WEIGHTINGS",
    "Recorded",
    "ablation_effects",
    "coefficient_gradients",
    "contrast",
    "magnitude",
    "mean_scores",
    "merge",
    "probe_heads",
    "random_coefficients",
    "random_scores",
    "record",
    "snip",
    "wanda",
]
