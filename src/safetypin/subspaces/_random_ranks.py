"""Random directions of output spaces: the control of `actsvd`."""

from __future__ import annotations

import dataclasses
import hashlib

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import Rank, RankBasis, tensor_hash


def random_ranks(
    like: RankBasis,
    *,
    seed: int,
    model: PreTrainedModel | None = None,
    rank: Rank | None = None,
) -> RankBasis:
    """Draw uniformly random orthonormal directions, as many of each weight as `like` has.

    Args:
        like: The ranks that are to have a control.
        seed: A weight's directions depend on it and the weight's name, and on what it can reach.
        model: The model of `like`. Of a matrix with more outputs than inputs, directions are then
            drawn from its column space, where the ranks of `like` lie too: random ones of the
            whole output space, as without a model, take less of what the matrix writes.
        rank: How many of each weight, a number or a share; as many as `like` has where None. The
            few directions of a large matrix are drawn in a fraction of the time.
    """
    directions = {}
    for name, known in like.directions.items():
        count = known.shape[1]
        if rank is not None:
            count = min(count, like.count(name, rank))
        weight = None if model is None else model.get_parameter(name).detach()
        if weight is not None and name in like.transposed:
            weight = weight.T
        directions[name] = _drawn(f"{seed} {name}", (known.shape[0], count), weight)
    return dataclasses.replace(
        like,
        directions=directions,
        singular_values={},
        hashes={name: tensor_hash(tensor) for name, tensor in directions.items()},
        kind="random",
        prompts_id="",
    )


def _drawn(
    key: str, shape: tuple[int, ...], weight: Float[Tensor, "d_out d_in"] | None
) -> Float[Tensor, "d_out k"]:
    """Draw from the uniform distribution of orthonormal columns (Mezzadri, math-ph/0609050)."""
    if weight is not None and weight.shape[0] > weight.shape[1]:
        reached = torch.linalg.qr(weight.double().cpu()).Q
        inside = _drawn(key, (weight.shape[1], shape[1]), None)
        spread: Tensor = (reached @ inside.double()).float().contiguous()
        return spread
    # python's own hash of a text differs between processes
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], signed=True)
    normal = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    drawn: Tensor = (q * r.diagonal().sign()).float().contiguous()
    return drawn
