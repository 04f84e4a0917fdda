"""LoRA under a mask of weights, in three modes.

Freezing the masked weights of the model constrains nothing, because LoRA trains none of them: what
counts is the change that the adapters make to the effective weights.
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from safetypin.artifacts import UserError, WeightMask
from safetypin.intervene._prune import check_mask
from safetypin.intervene.protect._entry import EntryLinear
from safetypin.intervene.protect._held import HeldWeights
from safetypin.intervene.protect._lora import Lora
from safetypin.intervene.protect._protection import Guard
from safetypin.intervene.protect._targets import adapted_layers

MODES = ("base", "entry", "column")


@dataclasses.dataclass(frozen=True)
class MaskedLora(Lora):
    """LoRA that treats the masked weights apart.

    Attributes:
        mask: The weights to protect.
        mode: `entry`: the effective change is zero at every masked entry, exactly; the result is
            no low-rank adapter any more and is saved merged. `column`: the adapter does not read
            the input columns that hold a masked entry, so these columns never change; it stays a
            plain PEFT adapter. `base`: the source documents' way, the weights themselves are frozen
            and the adapters are free to change what they do: protects nothing, for comparison.
        coverage: For `column`: keep off the fewest columns that hold at least this share of each
            matrix's masked entries. 1 is all of them, and every masked entry is protected.
    """

    mask: WeightMask
    mode: Literal["entry", "column", "base"] = "entry"
    coverage: float = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in MODES:
            raise UserError(f"unknown mode {self.mode!r}; choose one of {', '.join(MODES)}")
        if not 0 < self.coverage <= 1:
            raise UserError(f"coverage must be in (0, 1], got {self.coverage}; 50% is 0.5")

    @property
    def settings(self) -> Mapping[str, Any]:
        """What tells this protection from another."""
        own = {"mode": self.mode, "mask": self.mask.fingerprint, "coverage": self.coverage}
        return {**super().settings, **own}

    def check(self, model: PreTrainedModel) -> None:
        """Raise unless the mask is of this model and something is protected, and trained."""
        super().check(model)
        check_mask(model, self.mask)
        reached = self._reached(model)
        if not reached and self.mode != "base":
            raise UserError(
                f"none of the {self.mask.num_selected:,} weights of the mask is in a matrix that "
                f"this run can train (adapters on {', '.join(self.targets)}), so it would protect "
                "nothing; choose targets among the mask's matrices (--lora-targets), or train "
                "without it (--protect lora)"
            )
        layers = adapted_layers(model, self.targets)
        if self.mode == "column" and all(
            name in reached and self._columns(layer, reached[name]).all()
            for name, layer in layers.items()
        ):
            raise UserError(
                "every input column of every adapted matrix holds a masked weight, so nothing "
                "could be trained; take mode 'entry', which holds single weights (--protect "
                "lora-entry), keep off fewer columns with a coverage below 1 (--lora-coverage "
                "0.5), or take a smaller set"
            )

    def begin(self, model: PreTrainedModel) -> Guard:
        """Put adapters on the targets, kept off the masked weights as the mode says."""
        reached = self._reached(model)
        notes = self._notes(model, reached)
        if self.mode == "entry":
            adapted = self.adapt(model, EntryLinear)
            for name, members in reached.items():
                layer = _adapter(adapted, name)
                layer.masked = members.to(layer.weight.device)
            measure = functools.partial(_measure, adapted, reached)
            return Guard(model=adapted, undo=adapted.unload, measure=measure, notes=notes)
        if self.mode == "column":
            return self._keep_off_columns(model, reached, notes)
        return dataclasses.replace(super().begin(model), notes=notes)

    def _keep_off_columns(
        self,
        model: PreTrainedModel,
        reached: Mapping[str, Bool[Tensor, "..."]],
        notes: tuple[str, ...],
    ) -> Guard:
        layers = {name: model.get_submodule(name) for name in reached}
        columns = {name: self._columns(layers[name], reached[name]) for name in reached}
        inside = {
            name: reached[name] & (chosen[:, None] if isinstance(layers[name], Conv1D) else chosen)
            for name, chosen in columns.items()
        }
        adapted = self.adapt(model)
        held = _hold_at_zero(adapted, columns)
        return Guard(
            model=adapted,
            undo=adapted.unload,
            after_step=held.restore,
            after_training=held.restore,
            measure=functools.partial(_measure, adapted, inside),
            notes=notes,
        )

    def _reached(self, model: PreTrainedModel) -> dict[str, Bool[Tensor, "..."]]:
        """Return the masked entries of the adapted matrices that have any, by module name."""
        names = {name: f"{name}.weight" for name in adapted_layers(model, self.targets)}
        return {
            name: self.mask.tensors[weight]
            for name, weight in names.items()
            if weight in self.mask.tensors and self.mask.tensors[weight].any()
        }

    def _columns(self, layer: nn.Module, members: Bool[Tensor, "..."]) -> Bool[Tensor, " d_in"]:
        counts = members.sum(dim=1 if isinstance(layer, Conv1D) else 0)
        return covering_columns(counts, self.coverage)

    def _notes(
        self, model: PreTrainedModel, reached: Mapping[str, Bool[Tensor, "..."]]
    ) -> tuple[str, ...]:
        inside = sum(int(members.sum()) for members in reached.values())
        if not inside:  # of mode `base` only, the others refuse it
            return (
                f"none of the mask's {self.mask.num_selected:,} weights is in a matrix with an "
                f"adapter (adapters on {', '.join(self.targets)}): they cannot change, and this is "
                "plain LoRA beside them",
            )
        text = (
            f"{inside:,} of the mask's {self.mask.num_selected:,} weights are in matrices with an "
            "adapter; the others cannot change at all"
        )
        if self.mode == "base":
            return (text, "the adapters are free to change what the masked weights do")
        if self.mode == "entry":
            return (text,)
        kept_off = [self._columns(model.get_submodule(n), m) for n, m in reached.items()]
        share = sum(int(c.sum()) for c in kept_off) / sum(c.numel() for c in kept_off)
        return (text, f"the adapters of masked matrices read {1 - share:.1%} of their inputs")


def covering_columns(counts: Tensor, coverage: float) -> Bool[Tensor, " d_in"]:
    """Return the fewest columns that hold a share of all members; ties to the lower index.

    Args:
        counts: Members in each column.
        coverage: The share, in (0, 1].
    """
    order = counts.argsort(descending=True, stable=True)
    before = counts[order].cumsum(0) - counts[order]
    chosen = torch.zeros_like(counts, dtype=torch.bool)
    chosen[order] = (before < coverage * counts.sum()) & (counts[order] > 0)
    return chosen


def _adapter(adapted: PeftModel, name: str) -> Any:  # noqa: ANN401 - PEFT has no types
    """Return the adapted layer that took the place of the module `name`."""
    return adapted.get_base_model().get_submodule(name)


def adapter_inputs(adapted: PeftModel, name: str) -> nn.Parameter:
    """Return the A of the adapter at the module `name`: `(r, d_in)`."""
    ((_, layer),) = _adapter(adapted, name).lora_A.items()
    weight: nn.Parameter = layer.weight
    return weight


def _hold_at_zero(adapted: PeftModel, columns: Mapping[str, Bool[Tensor, " d_in"]]) -> HeldWeights:
    """Set columns of the adapters' A to zero, and return them to be held there.

    With A zero in a column, B A is zero there, whatever B is; so is its gradient's share in B.
    """
    members: dict[str, Bool[Tensor, "r d_in"]] = {}
    for name, chosen in columns.items():
        ((adapter, layer),) = _adapter(adapted, name).lora_A.items()
        with torch.no_grad():
            layer.weight[:, chosen.to(layer.weight.device)] = 0
        members[f"{name}.lora_A.{adapter}.weight"] = chosen.expand(layer.weight.shape)
    return HeldWeights(adapted.get_base_model(), members)


@torch.no_grad()
def _measure(adapted: PeftModel, kept: Mapping[str, Bool[Tensor, "..."]]) -> dict[str, Any]:
    """Return how many weights the adapters leave as they are, after a look at their merged change.

    Args:
        adapted: Trained.
        kept: The weights, by module name.

    Raises:
        UserError: They change one.
    """
    for name, members in kept.items():
        layer = _adapter(adapted, name)
        change = layer.get_delta_weight(*layer.active_adapters)
        if change[members.to(change.device)].any():
            raise UserError(
                f"the adapters change protected weights of {name}; do not use this model as a "
                "protected one, and try another --optimizer or --precision"
            )
    return {"held": sum(int(members.sum()) for members in kept.values()), "in_place": True}


def readable_inputs(
    model: PreTrainedModel, targets: Sequence[str], scored: Collection[str], share: float
) -> float:
    """Return the share of the adapters' inputs that mode `column` leaves, for a set spread evenly.

    A column of d_out weights holds none of them with the chance `(1 - share) ** d_out`.

    Args:
        model: Without adapters.
        targets: Of the adapters.
        scored: Names of the weights among which the set is.
        share: Of these, how large the set is.

    Raises:
        UserError: A target matches no linear layer.
    """
    left = total = 0.0
    for name, layer in adapted_layers(model, targets).items():
        d_out, d_in = _weight_shape(layer)
        left += d_in * ((1 - share) ** d_out if f"{name}.weight" in scored else 1.0)
        total += d_in
    return left / total


def _weight_shape(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):  # whose weight has another shape where it is quantised
        return layer.out_features, layer.in_features
    d_in, d_out = layer.get_parameter("weight").shape
    return d_out, d_in
