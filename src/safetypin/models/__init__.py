"""Models: loading them, and what is known of their architectures."""

from safetypin.models._adapter import merge_adapter
from safetypin.models._embedded import cache_folder, wheel_file
from safetypin.models._heads import HEAD, HeadSite, check_heads, head_sites
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
from safetypin.models._load import (
    ALIASES,
    adapter_folder,
    default_device,
    load_adapted,
    load_model,
    load_tokenizer,
    split_revision,
)
from safetypin.models._neuron_weights import key_coordinate, neuron_weights
from safetypin.models._neurons import (
    UnitShapes,
    UnitSite,
    base_fingerprint,
    check_activations,
    check_neurons,
    check_same_units,
    unit_shapes,
    unit_sites,
)
from safetypin.models._sites import LAYER_WORDS, chosen_layers, input_sites, weights_of_layers
from safetypin.models._transformers import hub_errors, is_out_of_memory, quiet_transformers

__all__ = [
    "ALIASES",
    "HEAD",
    "LAYER_WORDS",
    "BlockWeight",
    "Coverage",
    "HeadSite",
    "UnitShapes",
    "UnitSite",
    "adapter_folder",
    "base_fingerprint",
    "block_weights",
    "blocks",
    "cache_folder",
    "check_activations",
    "check_basis",
    "check_heads",
    "check_neurons",
    "check_same_units",
    "chosen_layers",
    "coverage",
    "default_device",
    "head_sites",
    "hub_errors",
    "input_sites",
    "is_out_of_memory",
    "key_coordinate",
    "load_adapted",
    "load_model",
    "load_tokenizer",
    "merge_adapter",
    "model_fingerprint",
    "model_id",
    "neuron_weights",
    "num_layers",
    "quiet_transformers",
    "split_revision",
    "transposed",
    "unit_shapes",
    "unit_sites",
    "weights_of_layers",
    "wheel_file",
]
