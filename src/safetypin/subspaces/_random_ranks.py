"""Random directions of output spaces: the control of `actsvd`."""

import dataclasses
import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

from safetypin.artifacts import RankBasis, tensor_hash


def random_ranks(like: RankBasis, *, seed: int) -> RankBasis:
    """Draw uniformly random orthonormal directions, as many of each weight as `like` has.

    A weight's directions depend on the seed and its name alone. They are drawn from the whole
    output space: of a matrix with more outputs than inputs, the ranks of `like` lie in the smaller
    space that the matrix can reach, so that random ones take less of it.
    """
    directions = {
        name: _drawn(f"{seed} {name}", tuple(known.shape))
        for name, known in like.directions.items()
    }
    return dataclasses.replace(
        like,
        directions=directions,
        singular_values={},
        hashes={name: tensor_hash(tensor) for name, tensor in directions.items()},
        kind="random",
        prompts_id="",
    )


def _drawn(key: str, shape: tuple[int, ...]) -> Float[Tensor, "d_out k"]:
    """Draw from the uniform distribution of orthonormal columns (Mezzadri, math-ph/0609050)."""
    # python's own hash of a text differs between processes
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], signed=True)
    normal = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    drawn: Tensor = (q * r.diagonal().sign()).float().contiguous()
    return drawn
