"""Drift: how far groups of weights moved in a training, beside what would be expected of any.

The papers compare mean |dW| / |W|. As SNIP and Wanda scores grow with |W|, their groups hold large
weights, and the ratio is small whatever the training did. The measures here are of dW itself, and
each value stands beside the value that the same changes would give elsewhere in the same matrices.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import torch

from safetypin.artifacts import UserError, WeightMask
from safetypin.select import layer_index, role
from safetypin.statistics import holm
from safetypin.track._cells import cells_of, level_of
from safetypin.track._margins import Closed
from safetypin.track._measure import (
    Matrix,
    Measured,
    Sums,
    measure_members,
    measure_whole,
)
from safetypin.track._open import After, open_tuned
from safetypin.track._reference import Before, Index, Places, Reference, open_reference
from safetypin.track._relabel import chances
from safetypin.track._sources import Change, Source
from safetypin.track._table import (
    MEASURES,
    DriftRow,
    DriftTable,
    rows_of,
)

Groups = Mapping[str, WeightMask]
Progress = Callable[[int], None]

_LEVEL = 0.05


@torch.no_grad()
def drift(
    reference: Before,
    tuned: After,
    groups: Groups,
    *,
    frozen: WeightMask | None = None,
    num_permutations: int = 999,
    seed: int = 0,
    progress: Progress | None = None,
) -> DriftTable:
    """Measure how far each group of weights moved, in all and by layer and role.

    Weights are read one tensor at a time; neither model is changed. Of an adapter the change is
    s B A, never a merged weight less its base.

    Args:
        reference: The model before, as scored: in memory, or the folder of a full model.
        tuned: The model after: in memory (also with LoRA adapters), a `Checkpoint`, a folder of a
            full model or of an adapter, or a `null_model`.
        groups: Sets of the reference's weights by name.
        frozen: Weights that the training was not to change. They count as not trainable; an
            adapter's own limits are seen without it.
        num_permutations: Reorderings behind each p-value; 0 for none. What is permuted is said in
            docs/methods.md: whole rows and columns of the changes, within their matrices.
        seed: Of the reorderings.
        progress: Called with the number of weights that were compared since the last call.

    Raises:
        UserError: A group is empty or of another model, the tuned model is another one, an adapter
            is for another base or no plain LoRA, or a checkpoint is not whole or holds NaN.
    """
    if num_permutations < 0 or seed < 0:
        raise UserError(
            f"num_permutations and seed must be 0 or more, got {num_permutations} and {seed}"
        )
    opened = open_reference(reference)
    _check_groups(opened, groups, frozen)
    source = open_tuned(tuned, opened)
    measured: list[Measured] = []
    num_moved = 0
    for name in next(iter(groups.values())).tensors:
        for part, moved in _measured(opened, source, groups, frozen, name):
            measured.append(part)
            num_moved += moved
        if progress is not None:
            progress(math.prod(opened.shape(name)))
    cells = cells_of((part.layer, part.role) for part in measured)
    found = {}
    if num_permutations:
        tested = {cell: part for cell, part in cells.items() if level_of(cell) != "matrix"}
        found = chances(
            measured, tested, list(groups), num_permutations=num_permutations, seed=seed
        )
    rows = [
        row
        for group in groups
        for cell, indices in cells.items()
        for row in rows_of([measured[index] for index in indices], group, cell, found)
    ]
    rows = corrected(rows)
    notes = [*source.notes, *_notes(rows, num_permutations, num_moved)]
    return DriftTable(
        rows=tuple(rows), notes=tuple(notes), num_permutations=num_permutations, seed=seed
    )


def corrected(rows: Sequence[DriftRow]) -> list[DriftRow]:
    """Return the rows with Holm's correction over each family of p-values."""
    corrections: dict[int, float] = {}
    for family in families(rows).values():
        adjusted = holm([p for index in family if (p := rows[index].p_value) is not None])
        corrections |= dict(zip(family, adjusted, strict=True))
    return [
        dataclasses.replace(row, p_corrected=corrections.get(index))
        for index, row in enumerate(rows)
    ]


def families(rows: Sequence[DriftRow]) -> dict[Hashable, list[int]]:
    """Return the indices of rows that answer one question and are corrected together."""
    found: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows):
        if row.p_value is not None:
            group = None if row.level == "all" else row.group
            found.setdefault((row.measure, row.level, group), []).append(index)
    return found


def _measured(
    reference: Reference, source: Source, groups: Groups, frozen: WeightMask | None, name: str
) -> Iterator[tuple[Measured, int]]:
    """Yield each matrix of a weight, measured, and how many of its frozen entries moved."""
    change, weight = source.change(name), reference.matrices(name)
    places = {group: reference.places(name, mask.tensors[name]) for group, mask in groups.items()}
    held = None if frozen is None else frozen.tensors.get(name)
    fixed = None if held is None else reference.places(name, held)
    for index, matrix in enumerate(weight):
        members = {group: _inside(place, index) for group, place in places.items()}
        shut, moved = _shut(change, index, matrix, None if fixed is None else _inside(fixed, index))
        if change is None or shut is None:
            sums = {group: Sums(num_weights=len(rows)) for group, (rows, _) in members.items()}
            whole = None
        else:
            closed = shut if bool(shut.any()) else None
            whole = measure_whole(matrix, change, index, closed, name)
            sums = {
                group: measure_members(matrix, change, index, inside, closed, whole)
                for group, inside in members.items()
            }
        part = Measured(layer=layer_index(name), role=role(name), whole=whole, sums=sums)
        yield part, moved


def _inside(places: Places, matrix: int) -> tuple[Index, Index]:
    """Return rows and columns of the members in one of a weight's matrices."""
    inside = places.matrix == matrix
    return places.rows[inside], places.columns[inside]


def _shut(
    change: Change | None, index: int, matrix: Matrix, fixed: tuple[Index, Index] | None
) -> tuple[Closed | None, int]:
    """Return which entries could not change (None: not one could), and how many did all the same.

    The latter are entries that were said to be frozen and differ.
    """
    reached = None if change is None else change.reached(index)
    if change is None or reached is None:
        return None, 0
    closed = (~reached).expand(matrix.shape).clone()
    moved = 0
    if fixed is not None:
        closed[fixed] = True
        moved = int(torch.count_nonzero(change.at(index, *fixed)))
    return (None if bool(closed.all()) else closed), moved


def _check_groups(reference: Reference, groups: Groups, frozen: WeightMask | None) -> None:
    if not groups:
        raise UserError("no group was given; give sets of weights by name")
    first = next(iter(groups.values()))
    for name, mask in groups.items():
        first.check_same_weights(mask)
        reference.check_mask(mask, f"the group {name!r}")
        if not mask.num_selected:
            raise UserError(f"the group {name!r} is empty; take a larger share, or leave it out")
    if frozen is not None:
        reference.check_mask(frozen, "the frozen set")


def _notes(rows: Sequence[DriftRow], num_permutations: int, num_moved: int) -> list[str]:
    """Return what must be said beside the numbers."""
    notes = [f"{name}: {MEASURES[name].warning}" for name in MEASURES if MEASURES[name].warning]
    if num_moved:
        notes.append(
            f"{num_moved:,} weights that were given as frozen differ from the reference; they are "
            "counted as not trainable all the same"
        )
    notes += [
        f"{row.group}: {1 - row.trainable_share:.1%} of its {row.num_weights:,} weights are not "
        "trainable and count in no measure"
        for row in rows
        if row.level == "all" and row.measure == "rms_units" and row.trainable_share < 1
    ]
    notes += [
        f"{row.group}: not one of its {row.num_trainable:,} trainable weights changed, though "
        "their matrices did; if they were frozen, give them as such"
        for row in rows
        if row.level == "all" and row.measure == "changed_share" and row.value == 0
    ]
    largest = max(map(len, families(rows).values()), default=0)
    if largest / (num_permutations + 1) > _LEVEL:
        notes.append(
            f"with {num_permutations:,} permutations none of {largest} parts can reach "
            f"{_LEVEL:g} after correction; take at least {math.ceil(largest / _LEVEL) - 1:,}"
        )
    return notes
