"""Find what holds a language model's safety in place, test it, and keep it there."""

from importlib.metadata import version

from safetypin.artifacts import (
    ArtifactMismatchError,
    Basis,
    Batch,
    DamagedArtifactError,
    NeuronScores,
    NeuronSet,
    Prompt,
    PromptSet,
    Rate,
    Response,
    UserError,
    Verdict,
    WeightMask,
    WeightScores,
    load,
    save,
)
from safetypin.audit import audit
from safetypin.evaluate import attack_success_rate, generate, generate_patched, judge, perplexity
from safetypin.intervene import (
    PROTECTIONS,
    Freeze,
    Full,
    Lora,
    MaskedLora,
    OnlyTrain,
    Rewind,
    Training,
    Warp,
    ablated,
    finetune,
    projected,
    pruned,
    save_tuned,
)
from safetypin.models import load_model
from safetypin.predict import Guard, GuardedGenerator
from safetypin.prompts import batches
from safetypin.scores import SCORERS, contrast, magnitude, random_scores, snip, wanda
from safetypin.select import matched_random, overlap, random_neurons, top_fraction, top_neurons
from safetypin.subspaces import actsvd, input_basis
from safetypin.track import drift, score_dynamics

__version__ = version("safetypin")

__all__ = [
    "PROTECTIONS",
    "SCORERS",
    "ArtifactMismatchError",
    "Basis",
    "Batch",
    "DamagedArtifactError",
    "Freeze",
    "Full",
    "Guard",
    "GuardedGenerator",
    "Lora",
    "MaskedLora",
    "NeuronScores",
    "NeuronSet",
    "OnlyTrain",
    "Prompt",
    "PromptSet",
    "Rate",
    "Response",
    "Rewind",
    "Training",
    "UserError",
    "Verdict",
    "Warp",
    "WeightMask",
    "WeightScores",
    "ablated",
    "actsvd",
    "attack_success_rate",
    "audit",
    "batches",
    "contrast",
    "drift",
    "finetune",
    "generate",
    "generate_patched",
    "input_basis",
    "judge",
    "load",
    "load_model",
    "magnitude",
    "matched_random",
    "overlap",
    "perplexity",
    "projected",
    "pruned",
    "random_neurons",
    "random_scores",
    "save",
    "save_tuned",
    "score_dynamics",
    "snip",
    "top_fraction",
    "top_neurons",
    "wanda",
]
