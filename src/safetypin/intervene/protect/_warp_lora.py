"""WaRP for adapters: LoRA that never reads the held directions, and so stays of low rank.

An entry mask on B A would leave no adapter (the product is of full rank); whole directions do.
"""

import dataclasses
import functools
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import Basis, UserError, WeightMask
from safetypin.intervene.protect._coefficients import share_of
from safetypin.intervene.protect._lora import Lora
from safetypin.intervene.protect._masked_lora import adapter_inputs, covering_columns
from safetypin.intervene.protect._protection import Guard
from safetypin.intervene.protect._targets import adapted_layers
from safetypin.intervene.protect._warp import check_rotated, describe_moved


def check_reached(model: PreTrainedModel, targets: Sequence[str], matrices: Container[str]) -> None:
    """Raise unless one of the matrices, parameter names, carries an adapter on these targets."""
    if not any(f"{name}.weight" in matrices for name in adapted_layers(model, targets)):
        raise UserError(
            "none of the mask's matrices carries an adapter (adapters on "
            f"{', '.join(targets)}), so nothing would be protected; choose lora_targets among the "
            "modules of the basis"
        )


@dataclasses.dataclass(frozen=True)
class WarpLora(Lora):
    """LoRA with the change `s B A (I - U_S U_S^T)`, U_S the directions that hold a masked entry.

    A is put back to where it reads none of them after every step, because AdamW takes it out.
    What is saved is a plain PEFT adapter. Targets beside the mask's matrices carry no adapter: it
    would train them unprotected.

    Attributes:
        basis: The coordinates, of this model. In `identity_basis` this is `lora-column`.
        mask: The coefficients to protect; made for whole directions (`top_directions`), or else
            nearly every direction holds one.
        coverage: Hold the fewest directions with at least this share of each matrix's masked
            entries. 1 is all of them.
    """

    basis: Basis
    mask: WeightMask
    coverage: float = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.coverage <= 1:
            raise UserError(f"coverage must be in (0, 1], got {self.coverage}; 50% is 0.5")

    @property
    def settings(self) -> Mapping[str, Any]:
        """What tells this protection from another."""
        own = {"basis": self.basis.fingerprint, "mask": self.mask.fingerprint}
        return {**super().settings, **own, "coverage": self.coverage}

    def check(self, model: PreTrainedModel) -> None:
        """Raise unless basis and mask are of this model, and something is left to train."""
        super().check(model)
        check_rotated(model, self.basis, self.mask)
        check_reached(model, self.targets, self.mask.tensors)
        if all(self._held(name).all() for name in self._reached(model)):
            raise UserError(
                "every direction of every adapted matrix holds a masked entry, so nothing could be "
                "trained; make the mask of whole directions (--form column), or use a coverage "
                "below 1"
            )

    def begin(self, model: PreTrainedModel) -> Guard:
        """Put adapters on the targets, and keep them off the held directions."""
        names = self._reached(model)
        held = {name: self._held(name) for name in names}
        num_left = len(adapted_layers(model, self.targets)) - len(names)
        # the targets as they were asked for, where all of them are reached: PEFT's config has them
        within = dataclasses.replace(self, targets=tuple(names)) if num_left else self
        adapted = within.adapt(model)
        project = functools.partial(self._project, adapted, held)
        project()
        share = sum(int(one.sum()) for one in held.values()) / sum(len(o) for o in held.values())
        notes = [f"the adapters of masked matrices read {1 - share:.1%} of the directions"]
        if num_left:
            notes.append(
                f"{num_left} of the targets ({', '.join(self.targets)}) are outside the matrices "
                "of the mask, and carry no adapter"
            )
        return Guard(
            model=adapted,
            undo=adapted.unload,
            after_step=project,
            after_training=project,
            measure=functools.partial(self._measure, adapted, held),
            notes=tuple(notes),
        )

    def _reached(self, model: PreTrainedModel) -> list[str]:
        """Return the targets that are matrices of the mask, by module name."""
        names = adapted_layers(model, self.targets)
        return [name for name in names if f"{name}.weight" in self.mask.tensors]

    def _held(self, name: str) -> Bool[Tensor, " d_in"]:
        members = self.mask.tensors[f"{name}.weight"]
        dim = 1 if f"{name}.weight" in self.basis.transposed else 0
        return covering_columns(members.sum(dim=dim), self.coverage)

    @torch.no_grad()
    def _project(self, adapted: PeftModel, held: Mapping[str, Bool[Tensor, " d_in"]]) -> None:
        for name, chosen in held.items():
            a = adapter_inputs(adapted, name)
            directions = self.basis.of(f"{name}.weight")
            a.copy_(_off(a, chosen.to(a.device), directions))

    @torch.no_grad()
    def _measure(
        self, adapted: PeftModel, held: Mapping[str, Bool[Tensor, " d_in"]]
    ) -> dict[str, Any]:
        """Return how far the adapters move held and free coefficients of their matrices.

        Raises:
            UserError: A held one farther than rounding takes it.
        """
        return describe_moved({name: self._moved(adapted, name, one) for name, one in held.items()})

    def _moved(
        self, adapted: PeftModel, name: str, chosen: Bool[Tensor, " d_in"]
    ) -> tuple[float, float]:
        """Return the largest change of a held coefficient and of a free one, as `Warp` does."""
        layer: Any = adapted.get_base_model().get_submodule(name)
        ((adapter, up),) = layer.lora_B.items()
        a, weight = adapter_inputs(adapted, name).float(), layer.weight.float()
        directions = self.basis.of(f"{name}.weight")
        # A is rotated before it is multiplied by B: fewer roundings, and r rows in place of d_out
        read = a if directions is None else a @ directions.to(a)
        change = (layer.scaling[adapter] * (up.weight.float() @ read)).abs()
        chosen = chosen.to(change.device)
        frozen = change.masked_fill(~chosen, 0).max()
        free = change.masked_fill(chosen, 0).max()
        # a change may be larger than the weight, and rounds by its own size
        largest = self.basis.rotated(f"{name}.weight", weight).abs().max()
        largest = torch.maximum(largest, change.max())
        return share_of(frozen, largest), share_of(free, weight.abs().max())


def _off(
    a: Float[Tensor, "r d_in"],
    chosen: Bool[Tensor, " d_in"],
    directions: Float[Tensor, "d_in d_in"] | None,
) -> Float[Tensor, "r d_in"]:
    """Return A without its part in the chosen directions."""
    if directions is None:
        return a.masked_fill(chosen, 0)
    own = directions.to(a)[:, chosen]
    once = a - (a @ own) @ own.T
    return once - (once @ own) @ own.T  # the basis is orthonormal to rounding only
