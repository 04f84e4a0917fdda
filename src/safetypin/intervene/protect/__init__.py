"""Protections of a fine-tuning run. A new one is a file beside this one and a line below."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

from safetypin.intervene.protect._coefficients import CoefficientOptimizer
from safetypin.intervene.protect._freeze import Freeze
from safetypin.intervene.protect._full import Full
from safetypin.intervene.protect._held import HeldWeights
from safetypin.intervene.protect._lora import Lora
from safetypin.intervene.protect._masked_lora import MaskedLora, readable_inputs
from safetypin.intervene.protect._only import OnlyTrain
from safetypin.intervene.protect._protection import Guard, Protection
from safetypin.intervene.protect._rewind import Rewind
from safetypin.intervene.protect._warp import Warp
from safetypin.intervene.protect._warp_lora import WarpLora, check_reached

__all__ = [
    "PROTECTIONS",
    "CoefficientOptimizer",
    "Freeze",
    "Full",
    "Guard",
    "HeldWeights",
    "Lora",
    "MaskedLora",
    "OnlyTrain",
    "Protection",
    "ProtectionKind",
    "Rewind",
    "Warp",
    "WarpLora",
    "check_reached",
    "readable_inputs",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtectionKind:
    """A protection as it is chosen by name.

    Attributes:
        make: Makes the protection, from the mask (where it needs one) and its options.
        summary: One line for help texts.
        protection: The class of what is made.
        needs_mask: Whether the mask is its first argument.
        needs_basis: Whether the basis comes before it, in whose coordinates the mask is.
        needs_neurons: Whether the mask is of neurons and so must be given: the set that `tune`
            makes by itself is of weights.
        needs_foundation: Whether foundation neurons must have been taken out of the mask.
        options: What `make` takes besides, by keyword.
    """

    make: Callable[..., Protection]
    summary: str
    protection: type[Protection]
    needs_mask: bool = False
    needs_basis: bool = False
    needs_neurons: bool = False
    needs_foundation: bool = False
    options: tuple[str, ...] = ()

    @property
    def learning_rate(self) -> float:
        """The learning rate where none is asked for."""
        return self.protection.learning_rate


LORA_OPTIONS = ("r", "alpha", "dropout", "targets")


def _masked_lora(
    mode: Literal["base", "entry", "column"], summary: str, *options: str
) -> ProtectionKind:
    return ProtectionKind(
        make=functools.partial(MaskedLora, mode=mode),
        summary=summary,
        protection=MaskedLora,
        needs_mask=True,
        options=(*LORA_OPTIONS, *options),
    )


PROTECTIONS: dict[str, ProtectionKind] = {
    "none": ProtectionKind(make=Full, protection=Full, summary="full fine-tuning"),
    "freeze": ProtectionKind(
        make=Freeze,
        protection=Freeze,
        needs_mask=True,
        summary="full, the masked weights stay as they are bit for bit",
    ),
    "sn-tune": ProtectionKind(
        make=OnlyTrain,
        protection=OnlyTrain,
        needs_mask=True,
        needs_neurons=True,
        summary="the masked weights alone are trained, such as those of safety neurons",
    ),
    "rsn-tune": ProtectionKind(
        make=OnlyTrain,
        protection=OnlyTrain,
        needs_mask=True,
        needs_neurons=True,
        needs_foundation=True,
        summary="sn-tune without the weights of foundation neurons",
    ),
    "rewind": ProtectionKind(
        make=Rewind,
        protection=Rewind,
        needs_mask=True,
        summary="full, then the masked weights are put back (the paper's freezing)",
    ),
    "lora": ProtectionKind(
        make=Lora, protection=Lora, options=LORA_OPTIONS, summary="adapters of low rank (PEFT)"
    ),
    "lora-base": _masked_lora(
        "base", "adapters beside frozen weights, free to go round the masked ones"
    ),
    "lora-entry": _masked_lora(
        "entry", "adapters whose effective change is zero at every masked weight"
    ),
    "lora-column": _masked_lora(
        "column", "adapters that never read the input columns of masked weights", "coverage"
    ),
    "warp": ProtectionKind(
        make=Warp,
        protection=Warp,
        needs_mask=True,
        needs_basis=True,
        options=("train_others",),
        summary="full, in a basis of safety's inputs in which the masked coefficients stay",
    ),
    "warp-lora": ProtectionKind(
        make=WarpLora,
        protection=WarpLora,
        needs_mask=True,
        needs_basis=True,
        options=(*LORA_OPTIONS, "coverage"),
        summary="adapters that never read the masked directions of such a basis",
    ),
}
