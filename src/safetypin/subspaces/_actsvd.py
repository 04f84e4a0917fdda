"""ActSVD: the directions of a layer's output that matter most on some prompts.

Wei et al. 2024 (arXiv:2402.05162), sec. 3.2: the left singular vectors of W X, X one column a
token. They are the eigenvectors of W C W^T with C = X X^T, so no output is ever kept. The published
code takes `svd_lowrank(niter=20)` of the outputs in bfloat16, block after block, each block seen
through the changed ones before it; here every block is seen in the model as it is, in one pass.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import Batch, Rank, RankBasis, tensor_hash, too_few_tokens
from safetypin.grams import blocks_of_layers, streamed_grams
from safetypin.models import (
    BlockWeight,
    block_weights,
    chosen_layers,
    input_sites,
    model_id,
    num_layers,
    transposed,
    weights_of_layers,
)
from safetypin.passes import Progress

log = logging.getLogger(__name__)

Directions = tuple[Float[Tensor, "d_out k"], Float[Tensor, " k"]]


def actsvd(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    rank: Rank | None = None,
    targets: tuple[str, ...] | None = None,
    layers: str = "all",
    prompts_id: str = "",
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> RankBasis:
    """Return the left singular vectors of W X^T of every weight, by falling singular value.

    X has a row for each counted token. Its Gram matrix is summed in float32 in one forward pass,
    one for all weights that read the same input; all that follows is float64. Each direction's
    largest entry is positive. Fused projections (Phi-3, GPT-2, GPT-NeoX) are one matrix; the
    experts of a mixture have no ranks, and `not_covered` names them.

    Args:
        model: Any decoder that `block_weights` knows.
        batches: Their `counted` tokens count.
        rank: How many directions to keep; as a float in [0, 1] the share of those that the matrix
            can have. As many as the counted tokens can tell where None.
        targets: Patterns of roles or module names; all but the experts of a mixture where None.
        layers: As `input_basis` takes them.
        prompts_id: Fingerprint of the prompts, kept in the result.
        max_bytes: Memory that Gram matrices may take; one forward pass is made for every run of
            layers that fits. All layers in one pass where None.
        progress: Called with the number of examples done in all passes.

    Raises:
        UserError: Fewer tokens are counted than ranks are to be kept, a rank is above the matrix's,
            no token is counted, or activations are not finite.
    """
    weights = weights_of_layers(model, targets, layers)
    full_ranks = {name: min(weight.d_in, weight.d_out) for name, weight in weights.items()}
    bare = RankBasis(
        directions={},
        singular_values={},
        full_ranks=full_ranks,
        hashes={},
        model_id=model_id(model),
        prompts_id=prompts_id,
        transposed=transposed(weights),
        not_covered=_left_out(model, weights, layers),
    )
    for name in full_ranks:  # before the pass, not after
        bare.count(name, 1.0 if rank is None else rank)
    known, done, num_tokens = list(batches), 0, 0
    num_examples = sum(len(batch.input_ids) for batch in known)
    directions, values = {}, {}
    for block in blocks_of_layers(weights, max_bytes) if max_bytes else [weights]:

        def tell(count: int, before: int = done) -> None:
            if progress is not None:
                progress(before + count)

        grams = streamed_grams(model, known, block, progress=tell)
        num_tokens = grams.num_tokens
        for name, found in _of_block(block, grams.sums(), _keeper(bare, rank, num_tokens)):
            directions[name], values[name] = found
        done += num_examples
    return dataclasses.replace(
        bare,
        directions={name: directions[name] for name in weights},
        singular_values={name: values[name] for name in weights},
        hashes={name: tensor_hash(directions[name]) for name in weights},
        num_tokens=num_tokens,
    )


def _left_out(
    model: PreTrainedModel, weights: dict[str, BlockWeight], layers: str
) -> tuple[str, ...]:
    """Return the weights of the chosen layers that have no ranks, and say which they are."""
    chosen = chosen_layers(layers, num_layers(model))
    known = block_weights(model).items()
    missing = [name for name, one in known if name not in weights and one.layer in chosen]
    if missing:
        log.warning("%d weights have no ranks, first %s", len(missing), missing[0])
    return tuple(missing)


def _keeper(bare: RankBasis, rank: Rank | None, num_tokens: int) -> Callable[[str], int]:
    """Return what says how many directions of a weight to keep.

    Raises:
        UserError: More than tokens were counted.
    """

    def keep(name: str) -> int:
        if rank is None:
            return min(bare.full_ranks[name], num_tokens)
        wanted = bare.count(name, rank)
        if wanted > num_tokens:
            raise too_few_tokens(num_tokens, wanted, name)
        return wanted

    return keep


@torch.no_grad()
def _of_block(
    weights: dict[str, BlockWeight],
    grams: Iterable[tuple[str, Float[Tensor, "d_in d_in"]]],
    keep: Callable[[str], int],
) -> Iterator[tuple[str, Directions]]:
    readers: dict[str, list[BlockWeight]] = {}
    for name, site in input_sites(weights).items():
        readers.setdefault(site, []).append(weights[name])
    for site, gram in grams:
        half: Float[Tensor, "d_in rank"] | None = None
        exact = gram.to(_precise_device(gram.device)).double()
        for weight in readers[site]:
            stored = weight.weight.detach().to(exact)
            matrix = stored.T if weight.layout == "conv1d" else stored
            if weight.d_out <= weight.d_in:
                found = left_directions(matrix @ exact @ matrix.T, keep(weight.name))
            else:
                half = half_of(exact) if half is None else half
                found = left_directions_of_tall(matrix @ half, keep(weight.name))
            yield weight.name, found


def _precise_device(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device


def half_of(gram: Float[Tensor, "d_in d_in"]) -> Float[Tensor, "d_in rank"]:
    """Return H with H H^T = C, without the directions that no input has."""
    values, vectors = torch.linalg.eigh(gram)
    reached = values > 0  # rounding leaves some below
    found: Tensor = vectors[:, reached] * values[reached].sqrt()
    return found


def left_directions(outer: Float[Tensor, "d_out d_out"], count: int) -> Directions:
    """Return the first eigenvectors of W C W^T, and the roots of the eigenvalues."""
    values, vectors = torch.linalg.eigh(outer)
    return _shown(vectors.flip(1)[:, :count], values.flip(0)[:count])


def left_directions_of_tall(output: Float[Tensor, "d_out rank"], count: int) -> Directions:
    """Return the left singular vectors of Y = W H, with d_out above d_in.

    The eigenvectors Q of the small Y^T Y give them as Y Q, one column each and scaled; where the
    singular value is nothing but rounding, the decomposition of Y Q leaves some direction that is
    orthogonal to the others.
    """
    values, vectors = torch.linalg.eigh(output.T @ output)
    short = count - len(values)
    images = output @ vectors.flip(1)[:, :count]
    values = values.flip(0)[:count]
    if short > 0:
        images = torch.nn.functional.pad(images, (0, short))
        values = torch.nn.functional.pad(values, (0, short))
    return _shown(torch.linalg.qr(images).Q, values)


def _shown(vectors: Float[Tensor, "d_out k"], values: Float[Tensor, " k"]) -> Directions:
    """Return float32 on the CPU, each column's largest entry positive."""
    if vectors.shape[1]:
        largest = vectors.abs().argmax(dim=0, keepdim=True)
        vectors = vectors * vectors.gather(0, largest).sign()
    roots = values.clamp(min=0).sqrt()
    return vectors.float().cpu().contiguous(), roots.float().cpu().contiguous()
