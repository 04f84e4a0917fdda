"""Open whatever holds a tuned model, and give its changes one weight at a time."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

from safetypin.artifacts import UserError, WeightMask
from safetypin.track._adapters import carries_adapters, lora_of, read_lora
from safetypin.track._checkpoints import Checkpoint, as_checkpoint
from safetypin.track._null import NullModel
from safetypin.track._reference import Before, Parameters, Reference, open_reference
from safetypin.track._sources import Change, FullSource, Source
from safetypin.track._state import NotWholeError, by_parameter, read_state

After = nn.Module | Checkpoint | Path | str | NullModel


def open_tuned(tuned: After, reference: Reference) -> Source:
    """Return the changes of a tuned model: in memory, a checkpoint, or a folder.

    Raises:
        UserError: It is another model, an adapter for another base, not whole, or the very model
            object that it is to be compared with.
    """
    if isinstance(tuned, NullModel):
        return tuned
    if isinstance(tuned, nn.Module):
        if carries_adapters(tuned):
            return lora_of(tuned, reference)
        if tuned is reference.model:
            raise UserError(
                "the tuned model and the reference are one object, which the training changed in "
                "place; load the reference again, or give its folder"
            )
        name = str(getattr(tuned, "name_or_path", "") or type(tuned).__name__)
        return FullSource(reference, Parameters(tuned), name)
    checkpoint = tuned if isinstance(tuned, Checkpoint) else as_checkpoint(Path(tuned))
    if checkpoint.kind == "peft":
        return read_lora(checkpoint.path, reference)
    try:
        state = read_state(checkpoint.path)
    except NotWholeError as error:
        raise UserError(f"{checkpoint.path} is not whole: {error}") from error
    return FullSource(reference, by_parameter(state, reference.model), str(checkpoint.path))


def changes(
    tuned: After, reference: Before, names: Iterable[str]
) -> Iterator[tuple[str, Float[Tensor, "..."]]]:
    """Yield name and change (tuned minus reference, float32, the weight's shape), one at a time.

    A weight that nothing could change is left out: no adapter is on it, or in a full checkpoint
    not one of its entries differs.

    Raises:
        UserError: As `open_tuned` says, or the reference has no such weight.
    """
    opened = open_reference(reference)
    source = open_tuned(tuned, opened)
    for name in names:
        _check_there(opened, name)
        change, (num_matrices, d_out, _) = source.change(name), opened.grid(name)
        if is_reached(change, num_matrices):
            parts = [change.rows(index, 0, d_out) for index in range(num_matrices)]
            yield name, opened.original(name, torch.stack(parts))


def changes_at(
    tuned: After, reference: Before, mask: WeightMask
) -> Iterator[tuple[str, Float[Tensor, " k"]]]:
    """Yield name and change at a set's members, in the order of `mask.tensors[name].nonzero()`.

    For an adapter this is O(k r) for k members: no matrix is made whole, and of the reference
    nothing is read but names and shapes. Weights that nothing could change are left out.

    Raises:
        UserError: As `open_tuned` says, or the set is of weights that the reference has not.
    """
    opened = open_reference(reference)
    source = open_tuned(tuned, opened)
    for name, members in mask.tensors.items():
        _check_there(opened, name, tuple(members.shape))
        change = source.change(name)
        if is_reached(change, opened.grid(name)[0]):
            places = opened.places(name, members)
            values = torch.zeros(len(places.rows))
            for matrix in places.matrix.unique().tolist():
                inside = places.matrix == matrix
                values[inside] = change.at(matrix, places.rows[inside], places.columns[inside])
            yield name, values


def is_reached(change: Change | None, num_matrices: int) -> TypeGuard[Change]:
    """Whether anything could change in a weight."""
    return change is not None and any(
        change.reached(index) is not None for index in range(num_matrices)
    )


def _check_there(reference: Reference, name: str, shape: tuple[int, ...] | None = None) -> None:
    if name not in reference or (shape is not None and reference.shape(name) != shape):
        of = "" if shape is None else f" of shape {shape}"
        raise UserError(f"the reference {reference.name} has no weight {name}{of}")
