"""The mean activation of every unit: what an ablation may hold it at, instead of zero."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import Batch, UserError
from safetypin.hooks import at_rest
from safetypin.models import check_activations, unit_sites
from safetypin.passes import input_device, passes
from safetypin.scores._contrast import MAX_TOKENS, read_rows


@torch.no_grad()
def unit_means(
    model: PreTrainedModel, batches: Iterable[Batch], *, site: str = "neuron"
) -> dict[str, Float[Tensor, " units"]]:
    """Return the mean activation of every unit over the counted tokens, from one pass.

    Args:
        model: The model.
        batches: Their `counted` tokens count.
        site: `neuron` or `residual`.

    Raises:
        UserError: No token is counted, the units are no activations, or they are of experts,
            which have no mean of all tokens.
    """
    check_activations(site)
    sites = unit_sites(model, site)
    for name, place in sites.items():
        if len(place.shape) > 1:
            raise UserError(f"the units at {name} are of experts; use a set at site residual")
    sums = {name: torch.zeros(place.shape, dtype=torch.float64) for name, place in sites.items()}
    num_tokens = 0
    with at_rest(model):
        device = input_device(model)
        for batch in passes(batches, device, MAX_TOKENS.get(device.type, 512)):
            places = batch.counted.flatten().nonzero()[:, 0]
            num_tokens += len(places)
            for (name, _), (_, rows) in read_rows(model, sites, batch, places).items():
                sums[name] += rows.sum(dim=0).cpu()
    if not num_tokens:
        raise UserError("no token is counted in any of the batches")
    return {name: (total / num_tokens).float() for name, total in sums.items()}
