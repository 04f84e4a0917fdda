"""Gram matrices of layer inputs, summed over the counted tokens as a model runs over batches.

H H^T of WSR-Tune, eq. 7 (H: one column a token); no mean is taken off and nothing is divided. The
published code sums in bfloat16, and its trace then depends on the batch size by a third.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from safetypin.artifacts import Batch, UserError
from safetypin.hooks import Call, at_rest, watch
from safetypin.models import BlockWeight, input_sites
from safetypin.passes import Progress, check_rows, forward, input_device, passes, sites_of

MAX_TOKENS = {"cpu": 1024, "mps": 1024, "cuda": 8192}  # in one pass
FLOAT = 4  # bytes


def gram_bytes(weights: Mapping[str, BlockWeight]) -> int:
    """Return the memory of the Gram matrices of the weights' inputs."""
    sites = gram_sites(weights)
    sizes = {sites[name]: weight for name, weight in weights.items()}
    return FLOAT * sum(math.prod(_shape(weight)) for weight in sizes.values())


def gram_sites(weights: Mapping[str, BlockWeight]) -> dict[str, str]:
    """Return `input_sites`, with each matrix of experts as a site of its own."""
    shared = {name: weight for name, weight in weights.items() if weight.layout != "experts"}
    own = {name: name for name in weights if name not in shared}
    sites = input_sites(shared) | own
    return {name: sites[name] for name in weights}


def _shape(weight: BlockWeight) -> tuple[int, ...]:
    experts = weight.weight.shape[:1] if weight.layout == "experts" else ()
    return (*experts, weight.d_in, weight.d_in)


def blocks_of_layers(
    weights: Mapping[str, BlockWeight], max_bytes: int
) -> list[dict[str, BlockWeight]]:
    """Cut weights into runs of whole layers whose Gram matrices fit into some memory.

    A layer whose own do not fit stands alone.
    """
    layers: dict[int, dict[str, BlockWeight]] = {}
    for name, weight in weights.items():
        layers.setdefault(weight.layer, {})[name] = weight
    found: list[dict[str, BlockWeight]] = []
    for _, members in sorted(layers.items()):
        if found and gram_bytes(found[-1] | members) <= max_bytes:
            found[-1] |= members
        else:
            found.append(dict(members))
    return found


@torch.no_grad()
def streamed_grams(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    weights: Mapping[str, BlockWeight],
    *,
    progress: Progress | None = None,
) -> "Grams":
    """Return the sums of X^T X of the weights' inputs over the counted tokens, in one forward pass.

    Args:
        model: Any decoder that `block_weights` knows.
        batches: Their `counted` tokens count.
        weights: Whose inputs.
        progress: Called with the number of examples done.
    """
    grams = Grams(weights)
    num_examples, device = 0, input_device(model)
    with at_rest(model), watch(sites_of(weights), grams.see):
        for batch in passes(batches, device, MAX_TOKENS.get(device.type, 512)):
            grams.start(batch.counted)
            forward(model, batch, logits_to_keep=1)
            num_examples += len(batch.input_ids)
            if progress is not None:
                progress(num_examples)
    return grams


class Grams:
    """Float32 sums of X^T X for each input site, over the counted tokens seen so far.

    The experts of a mixture have a sum each, over the tokens that were sent to them.
    """

    def __init__(self, weights: Mapping[str, BlockWeight]) -> None:
        self._weights = weights
        self._sites = gram_sites(weights)
        self._sums: dict[str, Tensor] = {}
        self.num_tokens = 0

    def start(self, counted: Bool[Tensor, "batch seq"]) -> None:
        """Begin a pass over the tokens of one batch."""
        self._counted = counted.flatten()
        self._places = self._counted.nonzero()[:, 0]
        self.num_tokens += len(self._places)
        self._seen: set[str] = set()  # in this pass
        self._latest: tuple[str, Tensor] | None = None

    def see(self, call: Call) -> None:
        """Add the input of a site, when its first weight is used."""
        site = self._sites[call.name]
        if call.tokens is not None:
            self._see_expert(call)
            return
        if site in self._seen:
            _check_shared(call, site, self._latest)
            return
        check_rows(call, self._counted.numel())
        self._seen.add(site)
        # one input is kept, not all: the weights of a site are used one after the other
        self._latest = site, call.x
        rows = call.x.flatten(0, -2)[self._places.to(call.x.device)].float()
        if site not in self._sums:
            self._sums[site] = rows.T @ rows
        else:
            self._sums[site].addmm_(rows.T, rows)

    def _see_expert(self, call: Call) -> None:
        if call.name not in self._sums:
            weight = self._weights[call.name]
            self._sums[call.name] = torch.zeros(_shape(weight), device=call.x.device)
        rows = call.x[self._counted.to(call.x.device)[call.tokens]].float()
        self._sums[call.name][call.expert].addmm_(rows.T, rows)

    def sums(self) -> Iterator[tuple[str, Float[Tensor, "..."]]]:
        """Yield each site and its sum, which is used up.

        A sum is `(d_in, d_in)`; of experts, whose site has the weight's name, one for each.

        Raises:
            UserError: No token was counted, a site saw none, or activations are not finite.
        """
        if not self.num_tokens:
            raise UserError(
                "no token is counted in any of the batches; do the prompts have responses?"
            )
        found = set()
        for name, site in self._sites.items():
            if site in found:
                continue
            found.add(site)
            if site not in self._sums:
                raise UserError(f"{name} was used by no example; leave it out with targets")
            gram = self._sums.pop(site)
            if not gram.isfinite().all():
                raise UserError(
                    f"the inputs of {name} are not finite numbers; load the model in bfloat16 or "
                    "float32 (--dtype bfloat16): float16 ends at 65,504"
                )
            yield site, gram


def _check_shared(call: Call, site: str, latest: tuple[str, Tensor] | None) -> None:
    assert latest is not None
    seen, x = latest[1], call.x
    same = x.data_ptr() == seen.data_ptr() and x.shape == seen.shape
    if latest[0] != site or not (same or (x.shape == seen.shape and torch.equal(x, seen))):
        raise UserError(
            f"{call.name} reads another input than the layers beside it, so they cannot share a "
            "basis; leave it out with targets"
        )
