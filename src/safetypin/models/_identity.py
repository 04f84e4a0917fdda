"""Which model this is, by its weights."""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from safetypin.artifacts import ArtifactMismatchError, Basis, UserError, model_hash

CHUNK = 1 << 18  # entries converted at once


def model_id(model: nn.Module) -> str:
    """Return `name#fingerprint`, the name without the folders above it."""
    name = str(getattr(model, "name_or_path", "") or type(model).__name__)
    return f"{Path(name).name if Path(name).is_absolute() else name}#{model_fingerprint(model)}"


@torch.no_grad()
def model_fingerprint(model: nn.Module) -> str:
    """Return 12 hex digits that depend on every parameter's name, shape and values.

    Values count as bfloat16, so that the float32 and the bfloat16 load of one checkpoint agree.
    A tied weight counts once. Allocates a few megabytes.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(parameter_digest(name, parameter))
    return digest.hexdigest()[:12]


def parameter_digest(name: str, parameter: Tensor) -> bytes:
    """Return what of one parameter goes into the fingerprint."""
    if parameter.is_meta:
        raise UserError(f"{name} is not in memory; load the model without disk offload")
    flat = parameter.detach().flatten()
    bit_sum = sum(int(_bits(part).sum(dtype=torch.int64)) for part in flat.split(CHUNK))
    strided = _bits(flat[:: max(1, flat.numel() // 64)])
    return f"{name} {tuple(parameter.shape)} {bit_sum} {strided.tolist()}\n".encode()


def _bits(values: Shaped[Tensor, " n"]) -> Shaped[Tensor, " n"]:
    return values.to(torch.bfloat16).contiguous().view(torch.int16)


def check_basis(model: nn.Module, basis: Basis) -> None:
    """Raise unless a basis is of this model and whole.

    Raises:
        ArtifactMismatchError: It is of another model, or lacks a weight's directions.
    """
    identity = model_id(model)
    if model_hash(basis.model_id) != model_hash(identity):
        raise ArtifactMismatchError(
            f"the basis is of {basis.model_id}, the model is {identity}; make one of this model "
            "(safetypin warp basis)"
        )
    basis.check_has([])
