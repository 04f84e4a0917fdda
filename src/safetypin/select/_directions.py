"""Whole directions: all coefficients of the most important columns of a basis."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from safetypin.artifacts import WeightMask, WeightScores
from safetypin.select._top import check_fraction, checked


def top_directions(scores: WeightScores, fraction: float | int) -> WeightMask:
    """Select all coefficients of the `fraction` of each matrix's directions that matter most.

    A direction's score is the root of the sum of the squares of its coefficients' scores. Exactly
    `round(fraction * d_in)` directions of each matrix are selected, ties go to the lower index.

    Raises:
        UserError: `fraction` is outside [0, 1], or a score is no finite number >= 0.
    """
    return _directions(scores, fraction, is_top=True)


def bottom_directions(scores: WeightScores, fraction: float | int) -> WeightMask:
    """Select all coefficients of the directions that matter least: the control of the others.

    Raises:
        UserError: As of `top_directions`.
    """
    return _directions(scores, fraction, is_top=False)


def _directions(scores: WeightScores, fraction: float | int, *, is_top: bool) -> WeightMask:
    check_fraction(fraction)
    tensors = {}
    for name in scores.tensors:
        score = checked(scores, name)
        is_transposed = name in scores.transposed
        size = score.norm(dim=1 if is_transposed else 0)
        chosen = _highest(size if is_top else -size, fraction).cpu()
        shape = score.shape
        tensors[name] = (chosen[:, None] if is_transposed else chosen).expand(shape).contiguous()
    return WeightMask(tensors=tensors, model_id=scores.model_id, space=scores.space)


def _highest(values: Float[Tensor, " d_in"], fraction: float | int) -> Bool[Tensor, " d_in"]:
    order = values.argsort(descending=True, stable=True)
    chosen = torch.zeros_like(values, dtype=torch.bool)
    chosen[order[: round(fraction * len(values))]] = True
    return chosen
