"""N:M patterns: the same number of weights in every few neighbouring inputs of a row.

The form that hardware can skip (2:4), and in which Wanda and SparseGPT report. Wei et al. 2024
(arXiv:2402.05162) prune in it too.
"""

import dataclasses
import re

import torch
from jaxtyping import Float
from torch import Tensor

from safetypin.artifacts import UserError, WeightMask, WeightScores
from safetypin.select import _rank
from safetypin.select._top import Mask, Reversed, checked, highest_of_rows


def parse_pattern(text: str) -> tuple[int, int]:
    """Return n and m of `n:m`.

    Raises:
        UserError: It is something else, or takes none or more than all of each M.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text.strip())
    if found is None:
        raise UserError(f"pattern {text!r} is not of the form N:M; write 2:4 for 2 of every 4")
    n, m = int(found[1]), int(found[2])
    if not 1 <= n <= m:
        raise UserError(f"pattern {text!r} takes {n} of every {m}; N must be 1 to M, as in 2:4")
    return n, m


def top_n_of_m(scores: WeightScores, n: int, m: int) -> WeightMask:
    """Select the n highest of every m neighbouring inputs of each row.

    A row are the weights into one output, however they are stored. Ties go to the lower index; a
    weight of score 0 is never selected, as in `top_fraction`.

    Args:
        scores: Scores to rank, float32, finite, >= 0.
        n: How many of each m, from 0 to m.
        m: Must divide the inputs of every matrix.

    Raises:
        UserError: m does not divide a matrix's inputs, n is not between 0 and m, or a score is not
            valid.
    """
    if m < 1 or not 0 <= n <= m:
        raise UserError(f"a pattern takes n of every m, 0 <= n <= m and m >= 1; got {n}:{m}")
    tensors = {}
    for name in scores.tensors:
        tensor = checked(scores, name)
        inputs = tensor.mT if name in scores.transposed else tensor
        if inputs.shape[-1] % m:
            raise UserError(
                f"{name} has {inputs.shape[-1]} inputs, which {m} does not divide; take another "
                "pattern than "
                f"{n}:{m}, or leave the matrix out with targets"
            )
        members = _of_every(inputs.reshape(-1, m), n).view(inputs.shape)
        tensors[name] = members.mT.contiguous() if name in scores.transposed else members
    return WeightMask(tensors=tensors, model_id=scores.model_id, space=scores.space)


def bottom_n_of_m(scores: WeightScores, n: int, m: int) -> WeightMask:
    """Select the n lowest of every m neighbouring inputs of each row; those of score 0 first."""
    return top_n_of_m(dataclasses.replace(scores, tensors=Reversed(scores)), n, m)


def _of_every(groups: Float[Tensor, "groups m"], n: int) -> Mask:
    members = torch.zeros(groups.shape, dtype=torch.bool)
    step = max(_rank.chunk_size(groups.device) // groups.shape[1], 1)
    for start in range(0, len(groups), step):
        part = groups[start : start + step]
        members[start : start + step] = highest_of_rows(part, n)
    return members
