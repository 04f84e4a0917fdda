"""Magnitude: the size of the weight itself. Han et al. 2015 (arXiv:1506.02626)."""

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from safetypin.artifacts import Batch, WandaTensors, WeightScores
from safetypin.models import block_weights, coverage, model_id, transposed
from safetypin.passes import Progress


def magnitude(
    model: PreTrainedModel,
    batches: Iterable[Batch] = (),
    *,
    targets: tuple[str, ...] | None = None,
    prompts_id: str = "",
    progress: Progress | None = None,
) -> WeightScores:
    """Score every weight by `|W_ij|`, whatever the prompts: a baseline.

    The scores are made when they are asked for. `batches` and `progress` are not used.

    Raises:
        UserError: As `block_weights` says.
    """
    weights = block_weights(model, targets)
    values = {name: weight.weight for name, weight in weights.items()}
    return WeightScores(
        tensors=WandaTensors(values, dict.fromkeys(values, torch.ones(1))),
        method="magnitude",
        model_id=model_id(model),
        prompts_id=prompts_id,
        coverage=coverage(model, targets).fraction,
        transposed=transposed(weights),
    )
