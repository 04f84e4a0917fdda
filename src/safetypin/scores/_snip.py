"""SNIP: weight magnitude times loss gradient, per example.

Lee et al. 2019 (arXiv:1810.02340), eq. 4, as Wei et al. 2024 (arXiv:2402.05162), sec. 3, use it:
`mean over examples of |W_ij * dL(example)/dW_ij|`. Their code needs a backward pass for every
block and example. Here one pass gives all: the gradient of an example's loss by a layer's weight
is `delta^T x`, from the layer's input x and the loss' gradient delta by its output.
"""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import Batch, UserError, WeightScores
from safetypin.hooks import (
    Call,
    activations_remade,
    at_rest,
    embeddings_with_gradient,
    recomputed,
    watch,
)
from safetypin.models import BlockWeight, block_weights, coverage, model_id, transposed
from safetypin.passes import Progress, forward, input_device, logits_at, passes, sites_of
from safetypin.scores._gradients import GradientSums
from safetypin.scores._memory import ACTIVATION_SHARE, ActivationBudget

REDUCTIONS = ("mean", "sum")
# In one pass. On a CPU two or three short examples: fewer would leave its cores waiting for each
# other, and the activations of more are the larger part of the memory. A GPU wants larger products.
MAX_TOKENS = {"cpu": 200, "mps": 512, "cuda": 512}


@torch.inference_mode(False)  # it would hide whether a tensor has changed
def snip(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    targets: tuple[str, ...] | None = None,
    prompts_id: str = "",
    reduction: str = "mean",
    progress: Progress | None = None,
) -> WeightScores:
    """Score every weight by `mean over examples of |W_ij * dL(example)/dW_ij|`.

    L is the cross entropy of the example's response tokens given what is before them. The
    absolute value is taken for each example: gradients of opposite sign do not cancel. No weight
    gradient is ever made by autograd, and no parameter's own gradient is touched.

    Args:
        model: Any decoder that `block_weights` knows.
        batches: The loss runs over their `labels`.
        targets: Patterns of roles or module names; see `block_weights`.
        prompts_id: Fingerprint of the prompts, kept in the result.
        reduction: `mean` over an example's response tokens, as the code of Wei et al. does, or
            `sum`, as their text says, which lets long responses count for more.
        progress: Called with the number of examples done.

    Raises:
        UserError: An example without a response token, a matrix that no example used, or a loss,
            activation or gradient that is not finite.
    """
    if reduction not in REDUCTIONS:
        raise UserError(f"unknown reduction {reduction!r}; choose {' or '.join(REDUCTIONS)}")
    weights = block_weights(model, targets)
    sums = GradientSums(weights)
    num_examples, num_tokens = accumulate(model, batches, weights, sums, reduction, progress)
    return WeightScores(
        tensors=sums.scores(num_examples),
        method="snip",
        model_id=model_id(model),
        prompts_id=prompts_id,
        num_examples=num_examples,
        num_tokens=num_tokens,
        coverage=coverage(model, targets).fraction,
        transposed=transposed(weights),
    )


def accumulate(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    weights: Mapping[str, BlockWeight],
    sums: GradientSums,
    reduction: str,
    progress: Progress | None,
    *,
    activation_share: float = ACTIVATION_SHARE,
) -> tuple[int, int]:
    """Run all examples forward and backward; return the number of examples and of their tokens."""
    num_scores = sum(weight.weight.numel() for weight in weights.values())
    budget = ActivationBudget.of(model, num_scores, share=activation_share)
    num_examples, num_tokens = 0, 0
    device, sites = input_device(model), sites_of(weights)
    with (
        torch.enable_grad(),
        at_rest(model),
        embeddings_with_gradient(model),
        activations_remade(),
        watch(sites, sums.see),
    ):
        for batch in passes(batches, device, MAX_TOKENS.get(device.type, 512)):
            sums.start(batch.attention_mask)
            counts = predicted_tokens(batch, num_examples)
            with recomputed(budget.costly_blocks(batch)):
                backpropagate(model, batch, counts, reduction)
            num_examples += len(batch.input_ids)
            num_tokens += int(counts.sum())
            if progress is not None:
                progress(num_examples)
    return num_examples, num_tokens


def predicted_tokens(batch: Batch, first_index: int) -> Int[Tensor, " batch"]:
    """Return how many response tokens of each example have a token before them.

    Raises:
        UserError: An example has none.
    """
    counts = (_targets(batch) != -100).sum(dim=1)
    if not counts.all():
        index = first_index + int((counts == 0).nonzero()[0])
        raise UserError(
            f"example {index} has no response token to predict; "
            "snip needs prompts with responses, each after at least one token"
        )
    return counts


def _targets(batch: Batch) -> Int[Tensor, "batch predicting"]:
    """Return the labels that each position but the last predicts."""
    return batch.labels[:, 1:].masked_fill(batch.attention_mask[:, :-1] == 0, -100)


def backpropagate(
    model: PreTrainedModel, batch: Batch, counts: Int[Tensor, " batch"], reduction: str
) -> None:
    """Run one pass forward and backward, for the sum over examples of their losses.

    Of the sum, each example's share of any gradient is the gradient of its own loss.

    Raises:
        UserError: The loss is not finite.
    """
    targets = _targets(batch)
    where = targets != -100
    logits = logits_at(model, batch, torch.nn.functional.pad(where, (0, 1)))
    targets = targets[where].to(logits.device)
    weights = torch.ones_like(targets, dtype=torch.float32)
    if reduction == "mean":
        weights /= counts[where.nonzero()[:, 0]].to(logits.device)
    losses, gradient = cross_entropy(logits.detach(), targets, weights)
    if not losses.isfinite().all():
        raise UserError(
            f"the loss is {losses.sum().item()}: {_culprit(model, batch)} not finite; "
            "load the model in bfloat16 or float32"
        )
    logits.backward(gradient)


@torch.no_grad()
def _culprit(model: PreTrainedModel, batch: Batch) -> str:
    bad = []

    def note(call: Call) -> None:
        if not call.x.isfinite().all():
            bad.append(call.name)

    with watch(sites_of(block_weights(model)), note):
        forward(model, batch, logits_to_keep=1)
    return f"the inputs of {bad[0]} are" if bad else "the logits are"


def cross_entropy(
    logits: Float[Tensor, "kept vocabulary"],
    targets: Int[Tensor, " kept"],
    weights: Float[Tensor, " kept"],
) -> tuple[Float[Tensor, " kept"], Float[Tensor, "kept vocabulary"]]:
    """Return each position's weighted cross entropy and the gradient of their sum by the logits.

    The gradient, `weight * (softmax - onehot)`, takes the place of float32 logits: autograd would
    hold four matrices as large as they, which for a small model is most of what a pass needs.
    """
    values, where = logits.float(), targets[..., None]
    values -= values.amax(dim=-1, keepdim=True)
    chosen = values.gather(-1, where)
    total = values.exp_().sum(dim=-1, keepdim=True)
    values /= total
    values.scatter_add_(-1, where, values.new_full((), -1.0).expand_as(chosen))
    values *= weights[..., None]
    return (total.log() - chosen)[..., 0] * weights, values.to(logits.dtype)
