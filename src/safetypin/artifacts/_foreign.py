"""Sets and scores that other programs wrote with `torch.save`: read once, never written.

A `.pt` file is a pickle, which can run anything; `weights_only=True` lets nothing but tensors and
plain containers through. Known forms are those of the brittleness extension: a dictionary of
tensors by module, or of `indices`, `scores` and `shape` where only the highest scores were kept.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from safetypin.artifacts._errors import UserError

TOP_KEYS = frozenset({"indices", "scores", "shape"})


def read_foreign(path: Path) -> dict[str, Tensor]:
    """Read a set or scores from a `.pt` file.

    Returns:
        By the names in the file: bool tensors of a set, float32 tensors of scores. Of scores of
        which only the highest were kept, the set of these: nobody knows the others.

    Raises:
        UserError: There is no such file, it holds anything but tensors, or it is of another form.
    """
    found = _tensors(_loaded(path), path)
    if not found:
        raise UserError(f"{path} holds no tensor")
    kinds = {tensor.dtype == torch.bool for tensor in found.values()}
    if len(kinds) > 1:
        raise UserError(f"{path} holds a set for some modules and scores for others")
    if kinds == {True}:
        return found
    return {name: _scores(name, tensor, path) for name, tensor in found.items()}


def _loaded(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"no file {path}") from error
    except UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, or is no file of torch.save; loading it could run "
            "anything, so it is not loaded. Load it where it was made, and save a dictionary of "
            "tensors by module with torch.save"
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a file of torch.save: {error}") from error


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise UserError(
            f"{path} holds a {type(content).__name__}; a dictionary of tensors by module is needed"
        )
    found = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, Mapping) and value.keys() >= TOP_KEYS:
            found[name] = _top(name, value, path)
        else:
            raise UserError(
                f"{path}: {name!r} is a {type(value).__name__}; a tensor is needed, or indices, "
                "scores and shape of the highest scores"
            )
    return found


def _top(name: str, kept: Mapping[str, Any], path: Path) -> Tensor:
    """Return the set of the entries that were kept, from their flat indices."""
    shape = tuple(int(size) for size in kept["shape"])
    indices = torch.as_tensor(kept["indices"]).long().flatten()
    members = torch.zeros(math.prod(shape), dtype=torch.bool)
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(members):
        raise UserError(f"{path}: {name!r} has an index outside of its shape {shape}")
    members[indices] = True
    return members.view(shape)


def _scores(name: str, tensor: Tensor, path: Path) -> Tensor:
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(f"{path}: {name!r} is of {kind}; a set is of bool, scores are of floats")
    scores = tensor.float()
    if not bool(scores.isfinite().all()) or bool((scores < 0).any()):
        raise UserError(f"{path}: {name!r} has scores that are negative or no numbers")
    return scores
