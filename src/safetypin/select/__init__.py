"""From scores to sets of weights, their matched controls and their overlaps."""

from safetypin.select._directions import top_directions
from safetypin.select._matched import (
    MATCHES,
    MagnitudeMatch,
    magnitude_match,
    matched_random,
    top_of_same_size,
)
from safetypin.select._overlap import (
    GroupOverlap,
    Overlap,
    overlap,
    overlap_by_layer,
    overlap_by_matrix,
    overlap_by_role,
)
from safetypin.select._places import layer_index, role
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
    "GroupOverlap",
    "MagnitudeMatch",
    "Overlap",
    "bottom_fraction",
    "check_fraction",
    "layer_index",
    "magnitude_match",
    "matched_random",
    "overlap",
    "overlap_by_layer",
    "overlap_by_matrix",
    "overlap_by_role",
    "role",
    "top_directions",
    "top_fraction",
    "top_fractions",
    "top_of_same_size",
]
