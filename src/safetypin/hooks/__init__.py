"""Every hook this package puts on a model is put there by this room.

Hooks are gone once their block is left, also by an exception, and nobody else's hooks are touched.
"""

from safetypin.hooks._attention import Attention, read_attention
from safetypin.hooks._calls import (
    Call,
    Gradient,
    OnCall,
    Site,
    activations_remade,
    at_rest,
    embeddings_with_gradient,
    recomputed,
    watch,
)
from safetypin.hooks._units import (
    OUTPUT,
    Patch,
    gradients_masked,
    patch_units,
    read_units,
    stop_after,
)

__all__ = [
    "OUTPUT",
    "Attention",
    "Call",
    "Gradient",
    "OnCall",
    "Patch",
    "Site",
    "activations_remade",
    "at_rest",
    "embeddings_with_gradient",
    "gradients_masked",
    "patch_units",
    "read_attention",
    "read_units",
    "recomputed",
    "stop_after",
    "watch",
]
