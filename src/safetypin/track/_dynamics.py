"""Score dynamics: what became of the scores of a set's weights, at their original entries.

A weight that left the top keeps its score here. The papers' code calls it 0 then, so that every
exit counts as a fall of 100 %.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safetypin.artifacts import (
    ArtifactMismatchError,
    UserError,
    WeightMask,
    WeightScores,
    model_hash,
)
from safetypin.select import layer_index, role
from safetypin.track._cells import Cell, cells_of
from safetypin.track._dynamics_table import PERCENTILES, DynamicsRow, DynamicsTable, Histogram
from safetypin.track._margins import dot
from safetypin.track._threads import in_threads

Progress = Callable[[int], None]
Values = NDArray[np.float32]
Counts = NDArray[np.int64]

BINS_PER_DECADE = 8
FALLS_ANYWAY = (
    "a set that was chosen for its high scores falls whenever anything is scored anew, as part of "
    "what made it high was chance; compare with the two halves of the prompts on one model"
)

_FIRST_BIN, _NUM_BINS = -46 * BINS_PER_DECADE, 85 * BINS_PER_DECADE  # all that float32 can hold


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Members:
    """One group's scores in one matrix: 8 bytes a member are kept."""

    before: Values
    after: Values
    rank_before: float  # sums over the members
    rank_after: float
    rank_change_square: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Matrix:
    """One matrix: its place, the mean of all its scores, and each group's members."""

    layer: int | None
    role: str
    mean_before: float
    mean_after: float
    members: Mapping[str, _Members]


@torch.no_grad()
def score_dynamics(
    before: WeightScores,
    after: WeightScores,
    groups: WeightMask | Mapping[str, WeightMask],
    *,
    progress: Progress | None = None,
) -> DynamicsTable:
    """Compare the scores of the same weights before and after a training.

    Scores are asked for once, one tensor at a time in each of torch's threads. The noise floor is
    this function's own answer for the scores of two halves of the prompts, both on the reference,
    and a set chosen on the first half.

    Args:
        before: Scores of the reference.
        after: Scores of the tuned model (merged, if it has adapters), made in the same way.
        groups: One set of the reference's weights, called "set", or several by name.
        progress: Called with the number of scores that were compared since the last call.

    Raises:
        UserError: A set is empty, or a score is negative or not finite.
        ArtifactMismatchError: The scores are of other methods, weights or coordinates, or a set is
            not of the model that was scored before.
    """
    sets = {"set": groups} if isinstance(groups, WeightMask) else groups
    _check(before, after, sets)
    found: list[_Matrix] = []
    compare = partial(_compared, before=before, after=after, sets=sets)
    for name, matrices in zip(before.tensors, in_threads(compare, before.tensors), strict=True):
        found += matrices
        if progress is not None:
            progress(next(iter(sets.values())).tensors[name].numel())
    cells = cells_of((one.layer, one.role) for one in found)
    tasks = [
        (group, cell, inside)
        for group in sets
        for cell, indices in cells.items()
        if (inside := [found[i] for i in indices if len(found[i].members[group].before)])
    ]
    rows = list(in_threads(lambda task: _row(*task), tasks))
    whole = [task for task in tasks if None in task[1]]
    histograms = list(in_threads(lambda task: _histogram(*task), whole))
    return DynamicsTable(
        rows=tuple(rows), histograms=tuple(histograms), notes=_notes(before, after)
    )


def _compared(
    name: str, before: WeightScores, after: WeightScores, sets: Mapping[str, WeightMask]
) -> list[_Matrix]:
    """Return the matrices of one parameter: one, or one an expert."""
    tensors = [_checked(scores, name) for scores in (before, after)]
    shape = tensors[0].shape
    if tensors[1].shape != shape:
        raise ArtifactMismatchError(
            f"{name} is {tuple(shape)} before and {tuple(tensors[1].shape)} after: the scores are "
            "of two models"
        )
    for group, mask in sets.items():
        if mask.tensors[name].shape != shape:
            raise ArtifactMismatchError(f"the group {group!r} is of other weights than the scores")
    old, new, *masks = (
        tensor.reshape(math.prod(shape[:-2]), -1).numpy()
        for tensor in (*tensors, *(mask.tensors[name].cpu() for mask in sets.values()))
    )
    members = dict(zip(sets, masks, strict=True))
    found = []
    for index in range(len(old)):
        ranked = np.sort(old[index]), np.sort(new[index])
        found.append(
            _Matrix(
                layer=layer_index(name),
                role=role(name),
                mean_before=float(old[index].mean(dtype=np.float64)),
                mean_after=float(new[index].mean(dtype=np.float64)),
                members={
                    group: _members(old[index][inside[index]], new[index][inside[index]], *ranked)
                    for group, inside in members.items()
                },
            )
        )
    return found


def _members(before: Values, after: Values, old: Values, new: Values) -> _Members:
    ranks = rank_shares(before, old), rank_shares(after, new)
    change = ranks[1] - ranks[0]
    return _Members(
        before=before,
        after=after,
        rank_before=float(ranks[0].sum()),
        rank_after=float(ranks[1].sum()),
        rank_change_square=dot(change, change),
    )


def rank_shares(scores: Values, ranked: Values) -> NDArray[np.float64]:
    """Return for each score the share of the sorted ones that is lower, ties counted half."""
    low = np.searchsorted(ranked, scores)
    found, tied = (_holds(ranked, low + step, scores) for step in (0, 1))
    high = low + found
    # a second search takes as long as the first, and hardly any score is there twice
    high[tied] = np.searchsorted(ranked, scores[tied], side="right")
    shares: NDArray[np.float64] = (low + high) / (2 * len(ranked))
    return shares


def _holds(ranked: Values, places: NDArray[np.int64], scores: Values) -> NDArray[np.bool_]:
    last = len(ranked) - 1
    held: NDArray[np.bool_] = (ranked[np.minimum(places, last)] == scores) & (places <= last)
    return held


def _row(group: str, cell: Cell, matrices: Sequence[_Matrix]) -> DynamicsRow:
    parts = [one.members[group] for one in matrices]
    old = np.concatenate([part.before for part in parts]).astype(np.float64)
    new = np.concatenate([part.after for part in parts]).astype(np.float64)
    count = len(old)
    ranks = [math.fsum(getattr(part, key) for part in parts) / count
             for key in ("rank_before", "rank_after", "rank_change_square")]  # fmt: skip
    average = [
        math.fsum(len(part.before) * mean for part, mean in zip(parts, means, strict=True))
        for means in ([m.mean_before for m in matrices], [m.mean_after for m in matrices])
    ]
    return DynamicsRow(
        group=group,
        layer=cell[0],
        role=cell[1],
        num_weights=count,
        mean_before=float(old.mean()),
        mean_after=float(new.mean()),
        sd_before=float(old.std()),
        sd_after=float(new.std()),
        percentiles_before=tuple(map(float, np.percentile(old, PERCENTILES))),
        percentiles_after=tuple(map(float, np.percentile(new, PERCENTILES))),
        drop=_drop(float(old.mean()), float(new.mean())),
        drop_of_all=_drop(*average),
        share_lower=float((new < old).mean()),
        rank_before=ranks[0],
        rank_after=ranks[1],
        rank_change_sd=math.sqrt(max(ranks[2] - (ranks[1] - ranks[0]) ** 2, 0.0)),
    )


def _drop(before: float, after: float) -> float | None:
    return 1 - after / before if before else None


def _histogram(group: str, cell: Cell, matrices: Sequence[_Matrix]) -> Histogram:
    before = np.concatenate([one.members[group].before for one in matrices])
    after = np.concatenate([one.members[group].after for one in matrices])
    counts = log_counts(before), log_counts(after)
    used = np.flatnonzero(counts[0] + counts[1])
    first, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    edges = 10.0 ** ((np.arange(first, stop + 1) + _FIRST_BIN) / BINS_PER_DECADE)
    return Histogram(
        group=group,
        layer=cell[0],
        role=cell[1],
        edges=tuple(map(float, edges if len(used) else ())),
        before=tuple(map(int, counts[0][first:stop])),
        after=tuple(map(int, counts[1][first:stop])),
        zeros_before=int((before == 0).sum()),
        zeros_after=int((after == 0).sum()),
    )


def log_counts(scores: Values) -> Counts:
    """Return how many positive scores are in each bin, `BINS_PER_DECADE` a factor of ten."""
    positive = scores[scores > 0].astype(np.float64)
    bins = np.floor(np.log10(positive) * BINS_PER_DECADE).astype(np.int64) - _FIRST_BIN
    counts: Counts = np.bincount(bins, minlength=_NUM_BINS)
    return counts


def _checked(scores: WeightScores, name: str) -> Tensor:
    """Return the scores of one parameter, which are asked for once."""
    tensor = scores.tensors[name].detach().cpu()
    low, high = tensor.aminmax()
    if not (low >= 0 and high < torch.inf):  # a NaN makes both NaN
        raise UserError(
            f"{name}: a {scores.method} score of {scores.model_id} is negative, NaN or infinite; "
            "score again in float32"
        )
    return tensor


def _check(before: WeightScores, after: WeightScores, sets: Mapping[str, WeightMask]) -> None:
    if before.method != after.method or before.space != after.space:
        raise ArtifactMismatchError(
            f"scores before are {before.method} in {before.space}, after {after.method} in "
            f"{after.space}; score both models in the same way"
        )
    if odd := before.tensors.keys() ^ after.tensors.keys():
        raise ArtifactMismatchError(
            f"{len(odd)} weights have a score only before or only after, first {min(odd)!r}; "
            "merge adapters first, and score with the same --targets"
        )
    if not sets:
        raise UserError("no group was given; give a set of weights")
    for group, mask in sets.items():
        if mask.tensors.keys() != before.tensors.keys() or mask.space != before.space:
            raise ArtifactMismatchError(f"the group {group!r} is of other weights than the scores")
        if model_hash(mask.model_id) != model_hash(before.model_id):
            raise ArtifactMismatchError(
                f"the group {group!r} is a set of {mask.model_id}, the scores before are of "
                f"{before.model_id}; score dynamics follow a set of the model before"
            )
        if not mask.num_selected:
            raise UserError(f"the group {group!r} is empty; take a larger share")


def _notes(before: WeightScores, after: WeightScores) -> tuple[str, ...]:
    notes = [FALLS_ANYWAY]
    if before.prompts_id != after.prompts_id:
        notes.append(
            "the two scores are of different prompts, so a part of every change is theirs; score "
            "both models on the same prompts"
        )
    if before.num_tokens != after.num_tokens:
        notes.append(
            f"{before.num_tokens:,} tokens were counted before and {after.num_tokens:,} after"
        )
    return tuple(notes)
