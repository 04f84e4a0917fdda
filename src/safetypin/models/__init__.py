"""Models: loading them, and what is known of their architectures."""

from safetypin.models._embedded import cache_folder, wheel_file
from safetypin.models._identity import check_basis, model_fingerprint, model_id
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
from safetypin.models._sites import LAYER_WORDS, chosen_layers, input_sites, weights_of_layers
from safetypin.models._transformers import is_out_of_memory, quiet_transformers

__all__ = [
    "ALIASES",
    "LAYER_WORDS",
    "BlockWeight",
    "Coverage",
    "adapter_folder",
    "block_weights",
    "blocks",
    "cache_folder",
    "check_basis",
    "chosen_layers",
    "coverage",
    "input_sites",
    "is_out_of_memory",
    "load_model",
    "merge_adapter",
    "model_fingerprint",
    "model_id",
    "num_layers",
    "quiet_transformers",
    "transposed",
    "weights_of_layers",
    "wheel_file",
]
