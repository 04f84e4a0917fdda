"""Which linear layers carry an adapter."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from safetypin.artifacts import UserError
from safetypin.models import block_weights


def adapted_layers(model: PreTrainedModel, targets: Sequence[str]) -> dict[str, nn.Module]:
    """Return the linear layers that the targets mean, by module name, in model order.

    Args:
        model: Without adapters.
        targets: Names of layers (`q_proj`, `layers.0.mlp.up_proj`), as PEFT takes them, or roles
            and patterns as everywhere in this package (`attn_q`, `ffn_*`).

    Raises:
        UserError: A target matches no linear layer.
    """
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    if not targets:
        raise UserError("no target was given for the adapters; name layers such as 'q_proj'")
    chosen: set[str] = set()
    for target in targets:
        found = {name for name in linears if f".{name}".endswith(f".{target}")}
        chosen |= found or _by_role(model, target)
    return {name: module for name, module in linears.items() if name in chosen}


def _by_role(model: PreTrainedModel, target: str) -> set[str]:
    weights = block_weights(model, (target,)).values()
    if experts := [weight.name for weight in weights if weight.layout == "experts"]:
        raise UserError(
            f"target {target!r} means {experts[0]}, the experts of a mixture in one tensor, which "
            "cannot carry an adapter; name other layers, such as attn_q and attn_v"
        )
    return {weight.module_name for weight in weights}
