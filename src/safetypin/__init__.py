"""Find what holds a language model's safety in place, test it, and keep it there."""

import importlib
import sys
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from safetypin.evaluate import (
        attack_success_rate,
        generate,
        generate_patched,
        judge,
        perplexity,
    )
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


# where each public name lives
_ROOMS = {
    "artifacts": (
        "ArtifactMismatchError Basis Batch DamagedArtifactError NeuronScores NeuronSet "
        "Prompt PromptSet Rate Response UserError Verdict WeightMask WeightScores load "
        "save"
    ),
    "audit": "audit",
    "evaluate": "attack_success_rate generate generate_patched judge perplexity",
    "intervene": (
        "PROTECTIONS Freeze Full Lora MaskedLora OnlyTrain Rewind Training Warp ablated "
        "finetune projected pruned save_tuned"
    ),
    "models": "load_model",
    "predict": "Guard GuardedGenerator",
    "prompts": "batches",
    "scores": "SCORERS contrast magnitude random_scores snip wanda",
    "select": "matched_random overlap random_neurons top_fraction top_neurons",
    "subspaces": "actsvd input_basis",
    "track": "drift score_dynamics",
}
_HOMES = {name: f"safetypin.{room}" for room, names in _ROOMS.items() for name in names.split()}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever has the name
    """Import what is asked for (PEP 562), as torch and transformers take seconds to import."""
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and find_spec(f"safetypin.{name}"):
        return importlib.import_module(f"safetypin.{name}")
    raise AttributeError(f"module 'safetypin' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """The package: `safetypin.audit` is the function, though a subpackage has its name."""

    @property
    def audit(self) -> Any:  # noqa: ANN401
        """See `safetypin.audit.audit`."""
        return importlib.import_module("safetypin.audit").audit

    @audit.setter
    def audit(self, subpackage: ModuleType) -> None:
        """Let the import system name the subpackage here, as it does with each."""


sys.modules[__name__].__class__ = _Package
