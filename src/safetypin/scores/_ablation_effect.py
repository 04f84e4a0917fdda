"""Ablation effect: how much a layer's output changes when one unit is removed.

Zhao et al. 2025 (ICLR, yR47RmND1m), sec. 3: Imp(N | x) = || h without N (x) - h(x) ||_2. It is
exact here, for all units of all layers from one forward pass of the whole model:

- neuron k of an MLP adds h_k W_down[:, k] to its output, so its removal changes the output by
  `sqrt(sum over tokens of h_k^2) * ||W_down[:, k]||`. The published code sums |W_up x| and knows
  neither the gate nor W_down.
- coordinate d of a head's query adds q_d k_d^T to the product of queries and keys. Its effect is
  the norm of the change of the attention weights, `softmax(A - q_d k_d^T s) - softmax(A)`, with
  the scaling s that the published code leaves out. Coordinates are counted as they enter the
  product: after norms and rotation. A key's coordinate is removed together with its query's.
"""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from safetypin.artifacts import Batch, NeuronScores, UserError
from safetypin.hooks import Attention, Call, at_rest, read_attention, read_units
from safetypin.models import UnitSite, model_id, unit_sites
from safetypin.passes import forward, input_device, passes
from safetypin.scores._contrast import sites_of_units

MAX_TOKENS = {"cpu": 256, "mps": 1024, "cuda": 4096}  # in one pass
MAX_CELLS = 1 << 22  # attention weights at once: 16 MB


@torch.no_grad()
def ablation_effects(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    site: str = "neuron",
    prompts_id: str = "",
) -> Iterator[NeuronScores]:
    """Yield, for one example after the other, every unit's effect when it is removed.

    Args:
        model: Any decoder whose units are known; no mixture of experts at site `neuron`.
        batches: The effect is measured at their `counted` tokens.
        site: `neuron`, the change of the MLP's output; or `query`, the change of the attention
            weights, indexed by head and coordinate.
        prompts_id: Fingerprint of the prompts, kept in the results.

    Raises:
        UserError: An unknown site, an example without a counted token, or activations that are not
            finite.
    """
    if site not in {"neuron", "query"}:
        raise UserError(f"unknown site {site!r}; the ablation effect is known of neuron and query")
    sites = unit_sites(model, site)
    identity = model_id(model)
    num_done = 0
    with at_rest(model):
        device = input_device(model)
        for batch in passes(batches, device, MAX_TOKENS.get(device.type, 512)):
            counts = batch.counted.sum(dim=1).tolist()
            if 0 in counts:
                raise UserError(
                    f"example {num_done + counts.index(0)} has no counted token; does it have a "
                    "response?"
                )
            read = _neuron_effects if site == "neuron" else _query_effects
            found = read(model, sites, batch)
            for row, count in enumerate(counts):
                tensors = {name: found[name][row].float() for name in sites}
                _check_finite(tensors)
                yield NeuronScores(
                    tensors=tensors,
                    site=site,
                    method="ablation",
                    model_id=identity,
                    prompts_id=prompts_id,
                    num_examples=1,
                    num_tokens=int(count),
                )
            num_done += len(counts)


def mean_scores(scores: Iterable[NeuronScores]) -> NeuronScores:
    """Return the mean over examples of scores of the same units, each with its examples' weight.

    Raises:
        UserError: There are none.
    """
    totals: dict[str, Tensor] = {}
    num_examples = num_tokens = 0
    last = None
    for last in scores:
        for name, tensor in last.tensors.items():
            part = last.num_examples * tensor.double()
            totals[name] = totals[name] + part if name in totals else part
        num_examples += last.num_examples
        num_tokens += last.num_tokens
    if last is None:
        raise UserError("there is no example to score on: the batches are empty")
    return NeuronScores(
        tensors={name: (total / num_examples).float() for name, total in totals.items()},
        site=last.site,
        method=last.method,
        model_id=last.model_id,
        prompts_id=last.prompts_id,
        num_examples=num_examples,
        num_tokens=num_tokens,
    )


def _check_finite(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"the activations at {name} are not finite numbers; load the model in bfloat16 or "
                "float32"
            )


def _neuron_effects(
    model: PreTrainedModel, sites: dict[str, UnitSite], batch: Batch
) -> dict[str, Float[Tensor, "batch units"]]:
    found: dict[str, Tensor] = {}

    def see(call: Call) -> None:
        if call.tokens is not None:
            raise UserError(
                f"the effect of a unit of {call.name} hangs on what the router gives its expert, "
                "which is not known here; contrast two models instead, or use site 'query'"
            )
        x = call.x.view(*batch.counted.shape, -1).float()
        squares = x.square() * batch.counted.to(x.device)[..., None]
        found[call.name] = squares.sum(dim=1).sqrt() * _column_norms(sites[call.name])

    with read_units(sites_of_units(sites), see):
        forward(model, batch, logits_to_keep=1)
    return found


def _column_norms(site: UnitSite) -> Float[Tensor, " units"]:
    """Return the norm of what each unit adds to the output, for an activation of 1."""
    weight = site.module.get_parameter(site.parameter).detach().float()
    outputs = 0 if isinstance(site.module, nn.Linear) else 1
    norms: Tensor = torch.linalg.vector_norm(weight, dim=outputs)
    return norms


def _query_effects(
    model: PreTrainedModel, sites: dict[str, UnitSite], batch: Batch
) -> dict[str, Float[Tensor, "batch units"]]:
    names = {id(site.module): name for name, site in sites.items()}
    found: dict[str, Tensor] = {}

    def see(seen: Attention) -> None:
        rows = [
            query_effect(seen, row, counted.nonzero()[:, 0])
            for row, counted in enumerate(batch.counted)
        ]
        found[names[id(seen.module)]] = torch.stack(rows)

    with read_attention(model, see):
        forward(model, batch, logits_to_keep=1)
    return found


def query_effect(
    seen: Attention, row: int, places: Int[Tensor, " counted"]
) -> Float[Tensor, " units"]:
    """Return the norm of the change of the attention weights when a coordinate is removed.

    Args:
        seen: An attention layer at work.
        row: The example.
        places: Its counted tokens: the rows of attention weights that the norm runs over.

    Returns:
        One number for each query head and coordinate, head by head.
    """
    groups = seen.query.shape[1] // seen.key.shape[1]
    query = seen.query[row][:, places.to(seen.query.device)].float()  # (heads, counted, d)
    key = seen.key[row].float().repeat_interleave(groups, dim=0)  # (heads, seq, d)
    one = seen._replace(mask=_rows_of_mask(seen, row, places))
    product = query @ key.mT
    whole = one.logits(product).softmax(dim=-1)
    num_heads, _, size = query.shape
    step = max(1, MAX_CELLS // product.numel())
    found = []
    for start in range(0, size, step):
        chosen = slice(start, start + step)
        part = (
            query[..., chosen].permute(2, 0, 1)[..., None]
            * key[..., chosen].permute(2, 0, 1)[:, :, None]
        )
        changed = one.logits(product - part).softmax(dim=-1)
        found.append((changed - whole).square().sum(dim=(-2, -1)).sqrt())
    return torch.cat(found).T.reshape(num_heads * size)


def _rows_of_mask(seen: Attention, row: int, places: Tensor) -> Tensor | None:
    if seen.mask is None:
        return None
    own = seen.mask[min(row, len(seen.mask) - 1)]
    return own[:, places.to(own.device)]
