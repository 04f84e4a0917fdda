"""Models: loading them, and what is known of their architectures."""

from safetypin.models._embedded import cache_folder, wheel_file
from safetypin.models._identity import model_fingerprint, model_id
from safetypin.models._layers import (
    BlockWeight,
    Coverage,
    block_weights,
    blocks,
    coverage,
    num_layers,
    transposed,
)
from safetypin.models._load import ALIASES, adapter_folder, load_model, merge_adapter
from safetypin.models._transformers import is_out_of_memory, quiet_transformers

__all__ = [
    "ALIASES",
    "BlockWeight",
    "Coverage",
    "adapter_folder",
    "block_weights",
    "blocks",
    "cache_folder",
    "coverage",
    "is_out_of_memory",
    "load_model",
    "merge_adapter",
    "model_fingerprint",
    "model_id",
    "num_layers",
    "quiet_transformers",
    "transposed",
    "wheel_file",
]
