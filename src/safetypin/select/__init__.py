"""From scores to sets of weights, their matched controls and their overlaps."""

from safetypin.select._directions import bottom_directions, top_directions
from safetypin.select._heads import Ties, random_heads, ties_at, top_heads
from safetypin.select._matched import (
    MATCHES,
    MagnitudeMatch,
    magnitude_match,
    matched_random,
    top_of_same_size,
)
from safetypin.select._neurons import (
    NEURON_GROUPS,
    LayerShare,
    SparsityPoint,
    common_neurons,
    layer_shares,
    random_neurons,
    sparsity_curve,
    top_neurons,
    units_by_layer,
)
from safetypin.select._overlap import (
    GroupOverlap,
    Overlap,
    overlap,
    overlap_by_layer,
    overlap_by_matrix,
    overlap_by_role,
    pooled,
)
from safetypin.select._patterns import bottom_n_of_m, parse_pattern, top_n_of_m
from safetypin.select._places import layer_index, role
from safetypin.select._safest import safest_to_remove
from safetypin.select._subspaces import (
    MethodMatrix,
    SubspaceOverlap,
    SubspaceOverlaps,
    method_matrix,
    subspace_overlap,
)
from safetypin.select._top import (
    GROUPS,
    bottom_fraction,
    check_fraction,
    top_fraction,
    top_fractions,
)

__all__ = [
    "GROUPS",
    "MATCHES",
    "NEURON_GROUPS",
    "GroupOverlap",
    "LayerShare",
    "MagnitudeMatch",
    "MethodMatrix",
    "Overlap",
    "SparsityPoint",
    "SubspaceOverlap",
    "SubspaceOverlaps",
    "Ties",
    "bottom_directions",
    "bottom_fraction",
    "bottom_n_of_m",
    "check_fraction",
    "common_neurons",
    "layer_index",
    "layer_shares",
    "magnitude_match",
    "matched_random",
    "method_matrix",
    "overlap",
    "overlap_by_layer",
    "overlap_by_matrix",
    "overlap_by_role",
    "parse_pattern",
    "pooled",
    "random_heads",
    "random_neurons",
    "role",
    "safest_to_remove",
    "sparsity_curve",
    "subspace_overlap",
    "ties_at",
    "top_directions",
    "top_fraction",
    "top_fractions",
    "top_heads",
    "top_n_of_m",
    "top_neurons",
    "top_of_same_size",
    "units_by_layer",
]
