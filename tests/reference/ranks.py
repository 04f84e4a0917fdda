"""Slow and readable versions of the rank-level methods, in float64."""

import torch
from torch import Tensor


def left_singular(matrix: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return U and s of W X^T: (d_out, d_in) and a row for each counted token."""
    vectors, values, _ = torch.linalg.svd(matrix.double() @ rows.double().T, full_matrices=False)
    return vectors, values


def projector(directions: Tensor) -> Tensor:
    """Return U U^T."""
    return directions.double() @ directions.double().T


def without_ranks(matrix: Tensor, safety: Tensor, utility: Tensor | None = None) -> Tensor:
    """Return W - (I - P_u) P_s W, with no P_u where there is no utility."""
    outside = torch.eye(len(matrix)).double()
    if utility is not None:
        outside = outside - projector(utility)
    return matrix.double() - outside @ projector(safety) @ matrix.double()
