"""Controls: sets of the same size in every matrix, drawn at random or from the top of a score.

A set's effect means nothing without the effect of as many other weights in the same matrices.
Sets of important weights hold large weights, whose removal does more harm whatever they do, so
there is also a random set matched on |w|.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray
from torch import Tensor, nn

from safetypin.artifacts import (
    ArtifactMismatchError,
    UserError,
    WeightMask,
    WeightScores,
    model_hash,
)
from safetypin.select import _draw, _rank
from safetypin.select._places import matrices
from safetypin.select._top import checked

MATCHES = ("count", "magnitude")

_NUM_STRATA = 250  # of |w|; with the closed one they must fit a byte
_CELLS = 1 << 15  # values of the upper 16 bits of a float >= 0: |w| to 1 part in 128 or finer


def matched_random(
    mask: WeightMask,
    model: nn.Module,
    *,
    seed: int,
    match: str = "count",
    exclude: WeightMask | None = None,
) -> WeightMask:
    """Draw a random set with as many weights as `mask` in every matrix, none of them in `mask`.

    A control that shared members with the set would share its effect. Each expert of a tensor of
    experts is a matrix. The draw depends on the seed and the parameter's name alone, not on the
    order of the parameters, the device, or the other matrices.

    Args:
        mask: The set to match.
        model: The model whose weights these are; read, never changed.
        seed: Another seed gives another set.
        match: "count", uniform over the rest of the matrix; or "magnitude", the same number in
            each of 250 strata of |w|. Where the rest of a stratum is too small, the nearest
            strata give more; `magnitude_match` says how well it went.
        exclude: More weights that are never drawn.

    Raises:
        ArtifactMismatchError: The model has no such weights, or `exclude` is of others.
        UserError: `match` is unknown or cannot be had of a set of rotated coordinates, or a
            matrix has too few weights left to draw from.
    """
    if match not in MATCHES:
        raise UserError(f"match must be one of {', '.join(MATCHES)}, got {match!r}")
    if match == "magnitude" and mask.space != "weights":
        raise UserError(
            f"the set is of coordinates in basis {mask.space}, not of weights, so |w| "
            "cannot be matched; use match='count'"
        )
    if exclude is not None:
        mask.check_same_weights(exclude)
    tensors = {}
    for name, members in mask.tensors.items():
        weight = _weight(model, name, members)
        closed = members if exclude is None else members | exclude.tensors[name]
        source = _draw.stream(seed, name)
        drawn = torch.zeros(members.shape, dtype=torch.bool)
        rows = zip(*map(matrices, (weight, members, closed, drawn)), strict=True)
        for flat_weight, inside, barred, out in rows:
            _check_room(name, int(inside.sum()), int((~barred).sum()))
            magnitudes = flat_weight if match == "magnitude" else None
            out.copy_(_matched(inside.cpu(), barred.cpu(), magnitudes, source))
        tensors[name] = drawn
    return dataclasses.replace(mask, tensors=tensors)


def top_of_same_size(
    scores: WeightScores, mask: WeightMask, exclude: WeightMask | None = None
) -> WeightMask:
    """Select in every matrix as many of the highest-scored weights as `mask` has there.

    The control that asks whether a set does more than the top of one score. Members of `mask`
    may be selected again, unless `exclude` has them. Ties go to the lower index, also those of
    score 0 where a matrix has too few others: the size counts. Each expert of a tensor of experts
    is a matrix.

    Args:
        scores: Scores to rank, of the same weights as `mask`.
        mask: The set whose sizes are taken.
        exclude: Weights that are never selected.

    Raises:
        ArtifactMismatchError: Scores and sets are of different weights.
        UserError: A matrix has too few weights outside `exclude`, or a score is not valid.
    """
    _check_same_weights(scores, mask)
    if exclude is not None:
        mask.check_same_weights(exclude)
    tensors = {}
    for name, members in mask.tensors.items():
        ranked = checked(scores, name)
        _check_shape(name, ranked, members, "scores")
        closed = None if exclude is None else matrices(exclude.tensors[name])
        result = torch.zeros(members.shape, dtype=torch.bool)
        for index, row in enumerate(matrices(ranked)):
            count = int(matrices(members)[index].sum())
            barred = None if closed is None else closed[index].to(row.device)
            if barred is not None:
                _check_room(name, count, int((~barred).sum()))
            keys = functools.partial(_open_keys, row, barred)
            _rank.mark_highest(keys, [count], [matrices(result)[index]])
        tensors[name] = result
    return dataclasses.replace(mask, tensors=tensors)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MagnitudeMatch:
    """How large the weights of a set and of its control are.

    Attributes:
        mean_set: Mean |w| of the set; None where it is empty, as below.
        mean_control: Mean |w| of the control.
        rms_set: Root mean square of the set's weights.
        rms_control: Root mean square of the control's weights.
    """

    mean_set: float | None
    mean_control: float | None
    rms_set: float | None
    rms_control: float | None

    def to_json(self) -> dict[str, float | None]:
        """Return the four numbers by name."""
        return dataclasses.asdict(self)


def magnitude_match(mask: WeightMask, control: WeightMask, model: nn.Module) -> MagnitudeMatch:
    """Return how well a control matches its set on |w|, over all matrices together.

    Raises:
        ArtifactMismatchError: The two are of different weights, or of another model's.
    """
    mask.check_same_weights(control)
    mean_set, rms_set = _moments(mask, model)
    mean_control, rms_control = _moments(control, model)
    return MagnitudeMatch(
        mean_set=mean_set, mean_control=mean_control, rms_set=rms_set, rms_control=rms_control
    )


def _matched(
    members: Bool[Tensor, " n"],
    closed: Bool[Tensor, " n"],
    weight: Float[Tensor, " n"] | None,
    source: np.random.PCG64,
) -> Bool[Tensor, " n"]:
    """Draw as many open weights as there are members, in the strata of |weight| if it is given."""
    inside = members.numpy()
    if weight is None:
        strata, num_strata = np.zeros(inside.size, dtype=np.uint8), 1
    else:
        strata, num_strata = _magnitude_strata(inside, weight), _NUM_STRATA
    wanted = _draw.histogram(strata[inside], num_strata)
    strata[closed.numpy()] = num_strata  # a stratum that nothing is drawn from
    free = _draw.histogram(strata, num_strata + 1)[:num_strata]
    wanted = np.append(_borrowed(wanted, free), 0)
    return torch.from_numpy(_draw.draw(strata, wanted, source))


def _magnitude_strata(inside: NDArray[np.bool_], weight: Float[Tensor, " n"]) -> NDArray[np.uint8]:
    """Return each weight's stratum of |w|, none with more than 1/125 of the set or of the matrix.

    Equal parts of the matrix alone would be too coarse for a set of high scores, which lies in
    the last few percent; equal parts of the set alone too coarse for what is lent from outside.
    One value of |w| to 8 bits is never divided.
    """
    cells = np.empty(inside.size, dtype=np.uint16)
    for start in range(0, inside.size, _draw.CHUNK):
        part = weight[start : start + _draw.CHUNK].float().abs().cpu()
        cells[start : start + _draw.CHUNK] = (part.view(torch.int32) >> 16).numpy()
    shares = np.zeros(_CELLS)
    for sizes in (_draw.histogram(cells[inside], _CELLS), _draw.histogram(cells, _CELLS)):
        shares += (np.cumsum(sizes) - sizes) / max(int(sizes.sum()), 1)
    table = (shares * (_NUM_STRATA / 2)).clip(max=_NUM_STRATA - 1).astype(np.uint8)
    return _draw.looked_up(table, cells)


def _borrowed(wanted: NDArray[np.int64], free: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `wanted` with what a stratum cannot give moved to the nearest that can."""
    moved = wanted.copy()
    # from the largest |w| down: there the choice of neighbours is smallest
    for short in np.flatnonzero(wanted > free)[::-1]:
        for other in sorted(range(len(free)), key=lambda s: (abs(s - short), -s)):
            move = min(moved[short] - free[short], free[other] - moved[other])
            if move > 0:
                moved[short] -= move
                moved[other] += move
    return moved


def _open_keys(
    scores: Float[Tensor, " n"], closed: Bool[Tensor, " n"] | None
) -> Iterator[_rank.Keys]:
    """Yield the scores' keys; a closed weight's key is below that of a score of 0."""
    start = 0
    for keys in _rank.score_keys(scores):
        if closed is None:
            yield keys
        else:
            yield (keys + 1).masked_fill(closed[start : start + keys.numel()], 0)
        start += keys.numel()


def _moments(mask: WeightMask, model: nn.Module) -> tuple[float | None, float | None]:
    """Return mean and root mean square of |w| over a set, None where it is empty."""
    total = squares = 0.0
    for name, members in mask.tensors.items():
        weight = _weight(model, name, members)
        selected = weight[members.to(weight.device)].double().abs()
        total += float(selected.sum())
        squares += float(selected.square().sum())
    count = mask.num_selected
    return (total / count, (squares / count) ** 0.5) if count else (None, None)


def _weight(model: nn.Module, name: str, members: Bool[Tensor, "..."]) -> Float[Tensor, "..."]:
    try:
        weight = model.get_parameter(name).detach()
    except AttributeError:
        raise ArtifactMismatchError(
            f"{type(model).__name__} has no weight {name!r}: the set is of another model"
        ) from None
    _check_shape(name, weight, members, "model")
    return weight


def _check_shape(
    name: str, tensor: Shaped[Tensor, "..."], members: Bool[Tensor, "..."], owner: str
) -> None:
    if tensor.shape != members.shape:
        raise ArtifactMismatchError(
            f"{name} is {tuple(tensor.shape)} in the {owner} and {tuple(members.shape)} in the "
            "set: they are of two models"
        )


def _check_same_weights(scores: WeightScores, mask: WeightMask) -> None:
    if odd := scores.tensors.keys() ^ mask.tensors.keys():
        raise ArtifactMismatchError(
            f"{len(odd)} weights are in only one of scores and set, first {min(odd)!r}; "
            "score with the same --targets as for the set"
        )
    if scores.space != mask.space:
        raise ArtifactMismatchError(f"coordinates differ: {scores.space} against {mask.space}")
    if model_hash(scores.model_id) != model_hash(mask.model_id):
        raise ArtifactMismatchError(
            f"scores and set are of two models: {scores.model_id} and {mask.model_id}"
        )


def _check_room(name: str, count: int, num_open: int) -> None:
    if count > num_open:
        raise UserError(
            f"{name}: {count:,} weights to draw from only {num_open:,} that are left; a control "
            "that shares no weight with its set needs a smaller set or fewer exclusions"
        )
