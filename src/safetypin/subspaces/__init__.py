"""Bases of the input and output spaces of linear layers."""

from safetypin.grams import blocks_of_layers, gram_bytes
from safetypin.subspaces._actsvd import actsvd
from safetypin.subspaces._input_gram import input_basis
from safetypin.subspaces._other import identity_basis, random_basis
from safetypin.subspaces._random_ranks import random_ranks
from safetypin.subspaces._streamed import BlockDirections, block_directions

__all__ = [
    "BlockDirections",
    "actsvd",
    "block_directions",
    "blocks_of_layers",
    "gram_bytes",
    "identity_basis",
    "input_basis",
    "random_basis",
    "random_ranks",
]
