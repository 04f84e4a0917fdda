"""Silence attention heads: hold their outputs at zero where the output projection reads them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import NeuronSet
from safetypin.hooks import Patch, patch_units
from safetypin.models import check_heads


@contextmanager
def heads_ablated(model: PreTrainedModel, heads: NeuronSet) -> Iterator[PreTrainedModel]:
    """Hold the outputs of a set of heads at zero while in the block.

    What the output projection reads of an ablated head is exactly zero; what it reads of the others
    is what it was, bit for bit, in the first layer that is changed. No weight is touched, other
    hooks stay, and nothing is left behind, also after an exception.

    Args:
        model: The model.
        heads: Which heads, as `top_heads` gives them.

    Raises:
        UserError: The set is of other units than heads.
        ArtifactMismatchError: The set is of another model.
    """
    sites = check_heads(model, heads)
    patches = {}
    for name, members in heads.tensors.items():
        if members.any():
            units = members.repeat_interleave(sites[name].head_dim).nonzero()[:, 0]
            device = next(sites[name].module.parameters()).device
            patches[name] = Patch(units.to(device), partial(_silent, len(units)))
    where = {name: (sites[name].module, sites[name].parameter) for name in patches}
    with patch_units(where, patches):
        yield model


def _silent(count: int, x: Tensor) -> Tensor:
    return torch.zeros(count, dtype=x.dtype, device=x.device)
