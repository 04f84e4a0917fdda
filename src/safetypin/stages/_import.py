"""Import sets and scores of other programs, as an artifact of a model at hand."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safetypin.artifacts import (
    RunRecord,
    UserError,
    WeightMask,
    WeightScores,
    payload_hashes,
    read_foreign,
    save,
)
from safetypin.models import block_weights, coverage, load_model, model_id
from safetypin.stages._run import environment
from safetypin.stages._settings import nearest

# what other libraries put around the name of a module
WRAPPING = re.compile(r"\b(base_model\.model|_orig_mod|module)\.|\.(base_layer|base)\b")


def import_files(
    *, file: Path, model: str, out: Path, method: str, dtype: str = "auto"
) -> RunRecord:
    """Save what a `.pt` file holds as a run folder that every command takes.

    Args:
        file: A set or scores by module, as the brittleness extension saved them.
        model: The model that they were made of.
        out: The folder to write.
        method: How the scores were made, for the record.
        dtype: Precision to load the model in.

    Raises:
        UserError: The file is of another form or of another model, or `out` holds something else.
    """
    found = read_foreign(file)
    loaded, _ = load_model(model, dtype=dtype, device="cpu")
    shapes = {weight.name: tuple(weight.weight.shape) for weight in block_weights(loaded).values()}
    named = _named(found, shapes, file)
    identity = model_id(loaded)
    inputs: dict[str, Any] = {"file": str(file), **payload_hashes(file.parent, [file.name])}
    artifact: WeightMask | WeightScores
    if next(iter(named.values())).dtype == torch.bool:
        missing = shapes.keys() - named.keys()
        empty = {name: torch.zeros(shapes[name], dtype=torch.bool) for name in missing}
        tensors = {name: {**named, **empty}[name] for name in shapes}
        artifact = WeightMask(tensors=tensors, model_id=identity)
    else:
        num_scored = sum(scores.numel() for scores in named.values())
        artifact = WeightScores(
            tensors=named,
            method=method,
            model_id=identity,
            coverage=num_scored / coverage(loaded).num_block_weights,
        )
    return save(artifact, out, inputs=inputs, environment=environment())


def _named(
    found: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], file: Path
) -> dict[str, Tensor]:
    """Return the tensors by the names of the model's parameters, in the model's order.

    Raises:
        UserError: A name or a shape is of another model.
    """
    places = {parameter_name(name): name for name in found}
    for parameter, name in places.items():
        if parameter not in shapes:
            if found[name].dtype == torch.bool and not found[name].any():
                continue  # such as a head, of which no weight is in the set
            near = nearest(parameter, shapes)
            raise UserError(f"{file}: the model scores no weight {parameter!r}{near}")
        if tuple(found[name].shape) != shapes[parameter]:
            raise UserError(
                f"{file}: {name!r} is {tuple(found[name].shape)}, in the model it is "
                f"{shapes[parameter]}; name the model that the file was made of with --model"
            )
    named = {parameter: found[places[parameter]] for parameter in shapes if parameter in places}
    if not named:
        raise UserError(f"{file}: not one of its modules is in the model")
    return named


def parameter_name(name: str) -> str:
    """Return the name of a parameter from that of a module, as any library may write it."""
    bare = WRAPPING.sub("", name)
    return bare if bare.endswith(".weight") else f"{bare}.weight"
