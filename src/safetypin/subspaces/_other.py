"""Bases to compare with: no rotation, and a random one."""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import IDENTITY, Basis, tensor_hash
from safetypin.models import input_sites, model_id, transposed, weights_of_layers


def identity_basis(
    model: PreTrainedModel, *, targets: tuple[str, ...] | None = None, layers: str = "all"
) -> Basis:
    """Return the weights' own coordinates as a basis, in which a mask is one of weights."""
    weights = weights_of_layers(model, targets, layers)
    return Basis(
        directions={},
        spectra={},
        sites=input_sites(weights),
        hashes={},
        ranks={},
        model_id=model_id(model),
        kind=IDENTITY,
        transposed=transposed(weights),
    )


def random_basis(
    model: PreTrainedModel,
    *,
    targets: tuple[str, ...] | None = None,
    layers: str = "all",
    seed: int = 0,
) -> Basis:
    """Return uniformly random rotations of the same inputs: a control for `input_basis`.

    A site's rotation depends on the seed and its name alone.
    """
    weights = weights_of_layers(model, targets, layers)
    sites = input_sites(weights)
    sizes = {sites[name]: weight.d_in for name, weight in weights.items()}
    directions = {site: _rotation(f"{seed} {site}", size) for site, size in sizes.items()}
    return Basis(
        directions=directions,
        spectra={},
        sites=sites,
        hashes={site: tensor_hash(tensor) for site, tensor in directions.items()},
        ranks=sizes,
        model_id=model_id(model),
        kind="random",
        transposed=transposed(weights),
    )


def _rotation(key: str, size: int) -> Float[Tensor, "size size"]:
    """Draw from the uniform distribution of orthogonal matrices (Mezzadri, math-ph/0609050)."""
    # python's own hash of a text differs between processes
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], signed=True)
    normal = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(normal)
    rotation: Tensor = (q * r.diagonal().sign()).contiguous()
    return rotation
