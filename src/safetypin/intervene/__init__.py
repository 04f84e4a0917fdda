"""Interventions on a model: a change while in a block, or fine-tuning under a protection."""

from safetypin.intervene._ablate import ablated
from safetypin.intervene._ablate_heads import heads_ablated
from safetypin.intervene._data import TrainingRows, training_rows
from safetypin.intervene._project import RemovedRanks, projected, removed_ranks
from safetypin.intervene._prune import check_mask, pruned
from safetypin.intervene._save import save_tuned
from safetypin.intervene._train import MEASURED_FILE, finetune
from safetypin.intervene._training import Training
from safetypin.intervene.protect import (
    PROTECTIONS,
    Freeze,
    Full,
    HeldWeights,
    Lora,
    MaskedLora,
    OnlyTrain,
    Protection,
    ProtectionKind,
    Rewind,
    Warp,
    WarpLora,
    check_reached,
    readable_inputs,
)

__all__ = [
    "MEASURED_FILE",
    "PROTECTIONS",
    "Freeze",
    "Full",
    "HeldWeights",
    "Lora",
    "MaskedLora",
    "OnlyTrain",
    "Protection",
    "ProtectionKind",
    "RemovedRanks",
    "Rewind",
    "Training",
    "TrainingRows",
    "Warp",
    "WarpLora",
    "ablated",
    "check_mask",
    "check_reached",
    "finetune",
    "heads_ablated",
    "projected",
    "pruned",
    "readable_inputs",
    "removed_ranks",
    "save_tuned",
    "training_rows",
]
