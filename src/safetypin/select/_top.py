"""The highest scores of a row, matrix, layer or model.

Wei et al. 2024 (arXiv:2402.05162) write that they select per row; their Table 6 comes out when it
is done per matrix, so that is the default.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from safetypin.artifacts import UserError, WeightMask, WeightScores
from safetypin.select import _rank
from safetypin.select._places import layer_index, matrices

GROUPS = ("row", "matrix", "layer", "model")

HIGHEST = int(torch.tensor(torch.finfo(torch.float32).max).view(torch.int32))  # as bits

Scores = Float[Tensor, "..."]
Mask = Bool[Tensor, "..."]


def top_fraction(
    scores: WeightScores, fraction: float | int, *, group: str = "matrix"
) -> WeightMask:
    """Select the `fraction` of each group with the highest scores.

    Exactly `round(fraction * n)` of a group's n weights are selected, fewer where fewer have a
    score above 0: a weight of score 0 is never selected, such as one of an expert that received
    no token. Ties go to the lower flat index, within a group of several tensors to the tensor that
    comes first in `scores.tensors`.

    Args:
        scores: Scores to rank, float32, finite, >= 0. A tensor is asked for once per call with
            groups "row" and "matrix", three times with "layer" and "model".
        fraction: Share to select, in [0, 1]: 3% is 0.03.
        group: "row", the weights into one output, however they are stored; "matrix", where the
            experts in a (experts, d_out, d_in) tensor are a matrix each; "layer", all matrices of
            a block, a matrix outside the blocks being a layer of its own; or "model".

    Returns:
        The set, on the CPU wherever the scores are, so that all sets of a model combine.

    Raises:
        UserError: `fraction` is outside [0, 1], the group is unknown, a score is NaN, infinite or
            negative, or the scores are not float32.
    """
    return top_fractions(scores, [fraction], group=group)[fraction]


def top_fractions(
    scores: WeightScores, fractions: Iterable[float | int], *, group: str = "matrix"
) -> dict[float, WeightMask]:
    """Select several fractions as `top_fraction` does, in the same passes over the scores."""
    wanted = list(dict.fromkeys(float(fraction) for fraction in fractions))
    for fraction in wanted:
        check_fraction(fraction)
    if group not in GROUPS:
        raise UserError(f"group must be one of {', '.join(GROUPS)}, got {group!r}")
    names = list(scores.tensors)
    masks: dict[str, list[Mask]] = {}
    if group == "row":
        for name in names:
            masks[name] = _row_masks(
                checked(scores, name), wanted, is_transposed=name in scores.transposed
            )
    elif group == "matrix":
        for name in names:
            masks[name] = _matrix_masks(checked(scores, name), wanted)
    else:
        for together in _layers(names) if group == "layer" else [names]:
            masks |= _pooled_masks(scores, together, wanted)
    return {
        fraction: WeightMask(
            tensors={name: masks[name][index] for name in names},
            model_id=scores.model_id,
            space=scores.space,
        )
        for index, fraction in enumerate(wanted)
    }


def bottom_fraction(
    scores: WeightScores, fraction: float | int, *, group: str = "matrix"
) -> WeightMask:
    """Select the `fraction` of each group with the lowest scores, as `top_fraction` the highest.

    Exactly `round(fraction * n)` of a group's n weights; those of score 0 come first.
    """
    turned = Reversed(scores)
    return top_fraction(dataclasses.replace(scores, tensors=turned), fraction, group=group)


class Reversed(Mapping[str, Scores]):
    """Scores in the opposite order, each still told from each."""

    def __init__(self, scores: WeightScores) -> None:
        self._scores = scores

    def __getitem__(self, name: str) -> Scores:
        # numbers >= 0 are ordered as their bits are, so this turns their order round exactly
        bits = checked(self._scores, name).view(torch.int32)
        return (HIGHEST - bits).view(torch.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores.tensors)

    def __len__(self) -> int:
        return len(self._scores.tensors)


def check_fraction(fraction: float | int) -> None:
    """Raise UserError unless `fraction` is in [0, 1]; NaN is not."""
    if not 0 <= fraction <= 1:
        raise UserError(f"fraction must be in [0, 1], got {fraction:g}; 3% is 0.03")


def checked(scores: WeightScores, name: str) -> Scores:
    """Return the scores of one parameter, without gradient.

    Raises:
        UserError: They are not float32, or one is NaN, infinite or negative.
    """
    tensor = scores.tensors[name].detach()
    if tensor.dtype != torch.float32:
        raise UserError(
            f"{name}: scores must be float32, got {tensor.dtype}; half precision makes ties of "
            "scores that differ, so compute them in float32"
        )
    if tensor.numel():
        lowest, highest = tensor.aminmax()
        if not (lowest >= 0 and highest < torch.inf):  # a NaN makes both NaN
            _refuse(name, tensor, scores.method)
    return tensor


def _refuse(name: str, tensor: Scores, method: str) -> NoReturn:
    bad = {
        "NaN": tensor.isnan(),
        "infinite": tensor.isinf(),
        "negative": (tensor < 0) & ~tensor.isinf(),
    }
    counts = ", ".join(f"{int(mask.sum()):,} {kind}" for kind, mask in bad.items() if mask.any())
    raise UserError(
        f"{name}: {counts} of {tensor.numel():,} {method} scores; scores must be finite and >= 0. "
        "Score again in float32, and look for NaN in the weights of this layer"
    )


def _row_masks(scores: Scores, fractions: Sequence[float], *, is_transposed: bool) -> list[Mask]:
    """Return one mask a fraction, each with the same count in every row."""
    oriented = scores.mT if is_transposed else scores
    rows = oriented.reshape(-1, oriented.shape[-1])
    masks = [torch.zeros(rows.shape, dtype=torch.bool) for _ in fractions]
    step = max(_rank.chunk_size(rows.device) // max(rows.shape[1], 1), 1)
    for start in range(0, rows.shape[0], step):
        part = rows[start : start + step]
        for fraction, mask in zip(fractions, masks, strict=True):
            count = round(fraction * rows.shape[1])
            mask[start : start + step] = highest_of_rows(part, count)
    shaped = [mask.view(oriented.shape) for mask in masks]
    return [mask.mT.contiguous() for mask in shaped] if is_transposed else shaped


def highest_of_rows(rows: Float[Tensor, "rows d_in"], count: int) -> Bool[Tensor, "rows d_in"]:
    """Mark the `count` highest of each row, ties by the lower index, none of 0."""
    if count == 0:
        return torch.zeros_like(rows, dtype=torch.bool)
    cut = rows.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    above, ties = rows > cut, rows == cut
    missing = count - above.sum(dim=1, keepdim=True)
    return (above | (ties & (ties.cumsum(dim=1) <= missing))) & (rows > 0)


def _matrix_masks(scores: Scores, fractions: Sequence[float]) -> list[Mask]:
    """Return one mask a fraction, each with the same count in every matrix of the tensor."""
    masks = [torch.zeros(scores.shape, dtype=torch.bool) for _ in fractions]
    for index, row in enumerate(matrices(scores)):
        counts = [round(fraction * row.numel()) for fraction in fractions]
        outs = [matrices(mask)[index] for mask in masks]
        keys = functools.partial(_rank.score_keys, row)
        cuts = _rank.cuts(keys, _rank.upper_histogram(keys), counts)
        _rank.mark(keys(), _rank.above_zero(cuts), outs)
    return masks


def _pooled_masks(
    scores: WeightScores, names: Sequence[str], fractions: Sequence[float]
) -> dict[str, list[Mask]]:
    """Return one mask a fraction of each named parameter, all ranked as one group."""

    def keys() -> Iterator[_rank.Keys]:
        for name in names:
            yield from _rank.score_keys(checked(scores, name).reshape(-1))

    histogram = _rank.upper_histogram(keys)
    num_weights = int(histogram.sum())
    counts = [round(share * num_weights) for share in fractions]
    cuts = _rank.above_zero(_rank.cuts(keys, histogram, counts))
    masks = {}
    for name in names:
        tensor = checked(scores, name)
        masks[name] = [torch.zeros(tensor.shape, dtype=torch.bool) for _ in fractions]
        flat = [mask.view(-1) for mask in masks[name]]
        cuts = _rank.mark(_rank.score_keys(tensor.reshape(-1)), cuts, flat)
    return masks


def _layers(names: Iterable[str]) -> list[list[str]]:
    """Return the names grouped by block; a name outside the blocks is a group of its own."""
    groups: dict[int | str, list[str]] = {}
    for name in names:
        layer = layer_index(name)
        groups.setdefault(name if layer is None else layer, []).append(name)
    return list(groups.values())
