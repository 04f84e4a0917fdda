"""Ablate a set of units: hold their activations at zero, or at given values.

The other direction of patching: if a set is what makes a model refuse, the model without it does
not. Zero is the rest of a gated neuron; a mean over prompts is closer to what it does as a rule.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import NeuronSet, UserError
from safetypin.hooks import Patch, patch_units
from safetypin.models import check_activations, check_neurons


@contextmanager
def ablated(
    model: PreTrainedModel,
    neurons: NeuronSet,
    *,
    values: Mapping[str, Float[Tensor, " units"]] | None = None,
) -> Iterator[PreTrainedModel]:
    """Hold a set's activations at zero, or at `values`, while in the block.

    No weight is touched, other hooks stay, and nothing is left behind, also after an exception.

    Args:
        model: The model.
        neurons: Which units, at site `neuron` or `residual`.
        values: A number for every unit, by the set's names, such as means over prompts.

    Raises:
        ArtifactMismatchError: The set is of another model.
        UserError: Its units cannot be replaced.
    """
    check_activations(neurons.site)
    places = check_neurons(model, neurons)
    chosen = {}
    for name, members in neurons.tensors.items():
        if not members.any():
            continue
        if members.ndim > 1:
            raise UserError(
                f"the units at {name} are of experts and cannot be ablated; use site residual"
            )
        units = members.nonzero()[:, 0].to(next(places[name].module.parameters()).device)
        held = torch.zeros(len(units)) if values is None else values[name][units.cpu()]
        chosen[name] = Patch(units, partial(_held, held))
    where = {name: (places[name].module, places[name].parameter) for name in chosen}
    with patch_units(where, chosen):
        yield model


def _held(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x)
