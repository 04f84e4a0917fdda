"""Bases of the input spaces of linear layers."""

from safetypin.subspaces._input_gram import input_basis
from safetypin.subspaces._other import identity_basis, random_basis
from safetypin.subspaces._streamed import (
    BlockDirections,
    block_directions,
    blocks_of_layers,
    gram_bytes,
)

__all__ = [
    "BlockDirections",
    "block_directions",
    "blocks_of_layers",
    "gram_bytes",
    "identity_basis",
    "input_basis",
    "random_basis",
]
