"""Claim: ActSVD by Gram matrix and eigh is at least 50 times faster than `svd_lowrank(niter=20)`.

Both sides start from the same float32 inputs X of a square layer and its weight W, on one thread.
Ours: X^T X, W C W^T, eigh (float64), which gives all ranks at once. Theirs, as the published code
has it: X W^T, then `torch.svd_lowrank` for each number of ranks that is asked for. The spectrum of
X falls like 1 / j, with a step at the rank in question, so that there is one subspace to find; both
are compared with that of float64 sums. Time is that of the process's own work, so that other
programs do not count.

Run: OMP_NUM_THREADS=1 python benchmarks/removal.py [--tokens N] [--quick]
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from safetypin.subspaces._actsvd import left_directions

WIDTHS = (576, 1536)
NUM_ITERATIONS = 20
STEP = 2.0  # how much larger the singular values up to the rank are
Result = TypeVar("Result")


class Layer(NamedTuple):
    """Inputs and weight of a layer."""

    x: Float[Tensor, "tokens d_in"]
    weight: Float[Tensor, "d_out d_in"]


def make_layer(width: int, num_tokens: int, rank: int) -> Layer:
    """Return a layer whose outputs have a step in their singular values behind `rank`."""
    generator = torch.Generator().manual_seed(0)
    scale = 1 / torch.arange(1, width + 1)
    scale[:rank] *= STEP
    rows = torch.randn(num_tokens, width, generator=generator) * scale
    turn, weight = (
        torch.linalg.qr(torch.randn(width, width, generator=generator)).Q for _ in range(2)
    )
    return Layer(rows @ turn, weight)


def seconds(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the process time of some work, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def ours(layer: Layer) -> Tensor:
    """Return all left singular vectors of W X^T."""
    gram, weight = (layer.x.T @ layer.x).double(), layer.weight.double()
    return left_directions(weight @ gram @ weight.T, len(weight))[0]


def theirs(layer: Layer, rank: int) -> Tensor:
    """Return the first left singular vectors as the published code does."""
    found: Tensor = torch.svd_lowrank(layer.x @ layer.weight.T, q=rank, niter=NUM_ITERATIONS)[2]
    return found


def gap(one: Tensor, other: Tensor) -> float:
    """Return 1 - similarity of two subspaces of one size."""
    return float(1 - (one.double().T @ other.double()).square().sum() / one.shape[1])


def main() -> None:
    """Measure both at several ranks of each width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--quick", action="store_true", help="the smaller layer alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.tokens:,} tokens, one thread, process time")
    for width in WIDTHS[: 1 if options.quick else None]:
        total = 0.0
        for rank in (width // 16, width // 4, width // 2, width - width // 16):
            layer = make_layer(width, options.tokens, rank)
            fast, found = seconds(partial(ours, layer))
            slow, other = seconds(partial(theirs, layer, rank))
            total += slow
            exact = torch.linalg.eigh(
                layer.weight.double() @ _gram(layer) @ layer.weight.double().T
            )
            best = exact.eigenvectors.flip(1)[:, :rank]
            found = found[:, :rank]
            print(
                f"width {width:5}, rank {rank:5}: ours {fast:6.2f} s, theirs {slow:7.2f} s, "
                f"{slow / fast:6.1f} times; 1 - similarity: ours and theirs "
                f"{gap(found, other):.1e}, ours and exact {gap(found, best):.1e}",
                flush=True,
            )
        print(f"width {width:5}, all four ranks: {total / fast:.1f} times (ours is done once)")


def _gram(layer: Layer) -> Tensor:
    return layer.x.double().T @ layer.x.double()


if __name__ == "__main__":
    main()
