"""Eigenvectors of the Gram matrices of layer inputs: the directions of WaRP."""

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import Batch
from safetypin.grams import streamed_grams
from safetypin.models import BlockWeight
from safetypin.passes import Progress

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockDirections:
    """The bases of the input sites of some layers.

    Attributes:
        directions: By input site, orthonormal columns, that of the largest eigenvalue first.
        spectra: The eigenvalues of the Gram matrices, falling; rounding leaves none below 0.
        ranks: How many eigenvalues are above what rounding makes.
        num_tokens: Tokens that were counted.
    """

    directions: Mapping[str, Float[Tensor, "d_in d_in"]]
    spectra: Mapping[str, Float[Tensor, " d_in"]]
    ranks: Mapping[str, int]
    num_tokens: int


@torch.no_grad()
def block_directions(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    weights: Mapping[str, BlockWeight],
    *,
    progress: Progress | None = None,
) -> BlockDirections:
    """Return the eigenvectors of the inputs' Gram matrices, in one forward pass.

    The sign of a direction is such that its largest entry is positive. Directions beyond the rank
    belong to eigenvalues that are rounding: some orthonormal basis of what the counted tokens never
    reach, the same in every run on one machine.

    Args:
        model: Any decoder that `block_weights` knows.
        batches: Their `counted` tokens count.
        weights: Whose inputs.
        progress: Called with the number of examples done.

    Raises:
        UserError: No token is counted, or activations are not finite.
    """
    grams = streamed_grams(model, batches, weights, progress=progress)
    found = {site: eigenvectors(gram) for site, gram in grams.sums()}
    _tell_ranks({site: (len(found[site][1]), found[site][2]) for site in found})
    return BlockDirections(
        directions={site: parts[0] for site, parts in found.items()},
        spectra={site: parts[1] for site, parts in found.items()},
        ranks={site: parts[2] for site, parts in found.items()},
        num_tokens=grams.num_tokens,
    )


def eigenvectors(
    gram: Float[Tensor, "d_in d_in"],
) -> tuple[Float[Tensor, "d_in d_in"], Float[Tensor, " d_in"], int]:
    """Return eigenvectors by falling eigenvalue, the eigenvalues, and the numerical rank."""
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0), vectors.flip(1)
    largest = vectors.abs().argmax(dim=0, keepdim=True)
    vectors = vectors * vectors.gather(0, largest).sign()
    # of a symmetric matrix, eigenvalues are exact to about this
    noise = len(values) * torch.finfo(values.dtype).eps * values[0]
    rank = int((values > noise).sum())
    return vectors.cpu().contiguous(), values.clamp(min=0).cpu(), rank


def _tell_ranks(sites: Mapping[str, tuple[int, int]]) -> None:
    short: Sequence[str] = [site for site, (size, rank) in sites.items() if rank < size]
    if short:
        size, rank = sites[short[0]]
        log.warning(
            "the counted tokens reach only some directions in %d of %d input sites, first %s "
            "(%d of %d); the others are an arbitrary basis of the rest. More prompts reach more",
            len(short), len(sites), short[0], rank, size,
        )  # fmt: skip
