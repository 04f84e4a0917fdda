"""SparseGPT's saliency: what an output loses with a weight, once the inputs behind it make good.

Frantar and Alistarh 2023 (arXiv:2301.00774), alg. 1: W_ij^2 / U_jj^2, U the upper Cholesky factor
of H^-1, H = X^T X with 1 % of its mean diagonal added to the diagonal. The score alone: no other
weight is changed to make good. Counting response tokens only: Wei et al. 2024 (arXiv:2402.05162).
"""

import logging
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import Batch, WandaTensors, WeightScores
from safetypin.grams import blocks_of_layers, gram_sites, streamed_grams
from safetypin.models import block_weights, coverage, model_id, transposed
from safetypin.passes import Progress
from safetypin.scores._wanda import beside

log = logging.getLogger(__name__)

DAMPING = 0.01  # of the mean diagonal
MAX_BYTES = 8 << 30  # of Gram matrices in one pass over the prompts


@torch.inference_mode(False)  # it would hide whether a tensor has changed
def sparsegpt(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    targets: tuple[str, ...] | None = None,
    prompts_id: str = "",
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> WeightScores:
    """Score every weight by the root of SparseGPT's saliency, `|W_ij| / U_jj`.

    1 / U_jj^2 is the variance of input j that the inputs after it do not explain: the squared error
    that is left when these make good for the weight. Were the inputs uncorrelated, the score would
    be Wanda's; the root, which ranks alike, is taken so that the two can be compared. H is the mean
    over all counted tokens; in a mixture, an expert's own tokens by the number of all. An input
    that was always zero scores zero.

    The scores are made when they are asked for; until then only `(d_in,)` numbers a matrix exist.

    Args:
        model: Any decoder that `block_weights` knows.
        batches: Their `counted` tokens count.
        targets: Patterns of roles or module names; see `block_weights`.
        prompts_id: Fingerprint of the prompts, kept in the result.
        max_bytes: Memory that Gram matrices may take; one forward pass is made for every run of
            layers that fits.
        progress: Called with the number of examples done, over all passes together.

    Raises:
        UserError: No token is counted, a matrix saw none, or activations are not finite.
    """
    weights = block_weights(model, targets)
    known = list(batches)
    blocks = blocks_of_layers(weights, max_bytes)
    num_examples = sum(len(batch.input_ids) for batch in known)
    factors: dict[str, Tensor] = {}
    num_tokens = 0
    for index, block in enumerate(blocks):

        def tell(count: int, before: int = index * num_examples) -> None:
            if progress is not None:
                progress((before + count) // len(blocks))

        grams = streamed_grams(model, known, block, progress=tell)
        num_tokens = grams.num_tokens
        unexplained = {site: _unexplained(gram / num_tokens) for site, gram in grams.sums()}
        for name, site in gram_sites(block).items():
            factors[name] = beside(unexplained[site], weights[name])
    _tell_idle([factors[name] for name in weights if weights[name].layout == "experts"])
    return WeightScores(
        tensors=WandaTensors({name: w.weight for name, w in weights.items()}, factors),
        method="sparsegpt",
        model_id=model_id(model),
        prompts_id=prompts_id,
        num_examples=num_examples,
        num_tokens=num_tokens,
        coverage=coverage(model, targets).fraction,
        transposed=transposed(weights),
    )


def _tell_idle(factors: list[Tensor]) -> None:
    if idle := sum(int((factor.flatten(1).sum(dim=1) == 0).sum()) for factor in factors):
        log.warning("%d expert matrices received no counted token; their scores are 0", idle)


def _unexplained(gram: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    device = torch.device("cpu") if gram.device.type == "mps" else gram.device
    exact = gram.to(device).double()
    parts = exact if exact.ndim == 3 else exact[None]
    found = torch.stack([unexplained_rms(part) for part in parts])
    return (found if exact.ndim == 3 else found[0]).float().to(gram.device)


def unexplained_rms(gram: Float[Tensor, "d_in d_in"]) -> Float[Tensor, " d_in"]:
    """Return 1 / U_jj, U^T U = H^-1: the root mean square of input j that later ones leave over.

    H = R R^T with R upper triangular gives U = R^-1, so the diagonal of R is the answer, with no
    inverse: R is the Cholesky factor of H with rows and columns in the opposite order.

    Args:
        gram: X^T X, float64, before damping.
    """
    diagonal = gram.diagonal()
    silent = diagonal == 0
    damping = DAMPING * diagonal.mean()
    damped = gram + torch.diag(damping + silent.double())  # any number will do for a silent input
    found: Tensor = torch.linalg.cholesky(damped.flip(0, 1)).diagonal().flip(0)
    return found.masked_fill(silent, 0)
