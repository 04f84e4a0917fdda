"""Scoring methods. A new one is a file beside this one and a line in SCORERS."""

from collections.abc import Callable

from safetypin.artifacts import WeightScores
from safetypin.scores._coefficients import coefficient_gradients, random_coefficients
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
    "SCORERS",
    "coefficient_gradients",
    "magnitude",
    "merge",
    "random_coefficients",
    "random_scores",
    "snip",
    "wanda",
]
