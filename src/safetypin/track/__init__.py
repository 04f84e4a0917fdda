"""What a training moved: weights, scores and sets, beside what would be expected of chance.

Knows how to read checkpoints and adapters of Hugging Face form; trains nothing, scores nothing.
"""

from safetypin.track._checkpoints import Checkpoint, checkpoints
from safetypin.track._curves import curve_rows, drift_curves
from safetypin.track._drift import drift
from safetypin.track._dynamics import score_dynamics
from safetypin.track._dynamics_table import DynamicsRow, DynamicsTable, Histogram
from safetypin.track._groups import GROUPS, groups_of_scores, with_controls
from safetypin.track._null import NullModel, null_model
from safetypin.track._open import changes, changes_at, open_tuned
from safetypin.track._overlap import OverlapRow, OverlapTable, set_overlaps
from safetypin.track._reference import Reference, open_reference
from safetypin.track._table import MEASURES, DriftRow, DriftTable, Measure

__all__ = [
    "GROUPS",
    "MEASURES",
    "Checkpoint",
    "DriftRow",
    "DriftTable",
    "DynamicsRow",
    "DynamicsTable",
    "Histogram",
    "Measure",
    "NullModel",
    "OverlapRow",
    "OverlapTable",
    "Reference",
    "changes",
    "changes_at",
    "checkpoints",
    "curve_rows",
    "drift",
    "drift_curves",
    "groups_of_scores",
    "null_model",
    "open_reference",
    "open_tuned",
    "score_dynamics",
    "set_overlaps",
    "with_controls",
]
