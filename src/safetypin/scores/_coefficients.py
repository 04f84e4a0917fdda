"""The importance of a weight's coefficients in a basis: the loss gradient, per example.

WSR-Tune, eq. 9: `mean over examples of |dL(example)/dC|`, C = W U. The published code sums the
absolute gradients of whole batches in bfloat16, so its scores depend on the batch size and tie.
"""

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from safetypin.artifacts import Basis, Batch, UserError, WeightScores
from safetypin.models import block_weights, check_basis, coverage
from safetypin.passes import Progress
from safetypin.scores._gradients import GradientSums
from safetypin.scores._random import RandomTensors
from safetypin.scores._snip import REDUCTIONS, accumulate

METHOD = "gradient"
# Of what parameters and scores take: the training that follows takes several times as much, so
# few blocks need to run twice here.
ACTIVATION_SHARE = 0.3


@torch.inference_mode(False)  # it would hide whether a tensor has changed
def coefficient_gradients(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    basis: Basis,
    *,
    prompts_id: str = "",
    reduction: str = "mean",
    progress: Progress | None = None,
) -> WeightScores:
    """Score every coefficient by `mean over examples of |dL(example)/dC|`, C = W U.

    L is the cross entropy of the example's response tokens given what is before them. One forward
    and one backward pass an example give all scores; no weight gradient is made.

    Args:
        model: The one that the basis is of.
        batches: The loss runs over their `labels`.
        basis: The coordinates, and which weights are scored.
        prompts_id: Fingerprint of the prompts, kept in the result.
        reduction: `mean` over an example's response tokens, or their `sum`.
        progress: Called with the number of examples done.

    Returns:
        Scores in the coordinates of the basis, each tensor shaped as its weight.

    Raises:
        ArtifactMismatchError: The basis is of another model, or lacks a weight's directions.
        UserError: An example without a response token, or what is not finite.
    """
    if reduction not in REDUCTIONS:
        raise UserError(f"unknown reduction {reduction!r}; choose {' or '.join(REDUCTIONS)}")
    check_basis(model, basis)
    known = block_weights(model)
    weights = {name: known[name] for name in basis.sites}
    sums = GradientSums(weights, basis)
    num_examples, num_tokens = accumulate(
        model, batches, weights, sums, reduction, progress, activation_share=ACTIVATION_SHARE
    )
    return WeightScores(
        tensors=sums.scores(num_examples),
        method=METHOD,
        model_id=basis.model_id,
        prompts_id=prompts_id,
        num_examples=num_examples,
        num_tokens=num_tokens,
        coverage=coverage(model, tuple(weights)).fraction,
        space=basis.space,
        transposed=basis.transposed,
    )


def random_coefficients(model: PreTrainedModel, basis: Basis, *, seed: int = 0) -> WeightScores:
    """Score every coefficient by a uniform random number: a control.

    Raises:
        ArtifactMismatchError: The basis is of another model, or lacks a weight's directions.
    """
    check_basis(model, basis)
    weights = {name: model.get_parameter(name) for name in basis.sites}
    places = {name: (tuple(weight.shape), weight.device) for name, weight in weights.items()}
    return WeightScores(
        tensors=RandomTensors(places, seed),
        method="random",
        model_id=basis.model_id,
        coverage=coverage(model, tuple(weights)).fraction,
        space=basis.space,
        transposed=basis.transposed,
    )
