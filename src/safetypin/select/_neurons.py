"""From scores of units to sets, their random controls, and where they are."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch

from safetypin.artifacts import NeuronScores, NeuronSet, UserError, WeightScores
from safetypin.select import _draw
from safetypin.select._places import layer_index
from safetypin.select._top import top_fractions

NEURON_GROUPS = ("model", "layer")


def top_neurons(scores: NeuronScores, fraction: float | int, *, group: str = "model") -> NeuronSet:
    """Select the `fraction` of units with the highest scores, by rank.

    Exactly `round(fraction * n)` of a group's n units, fewer where fewer have a score above 0; ties
    go to the earlier layer, then to the lower index.

    Args:
        scores: Scores to rank, float32, finite, >= 0.
        fraction: Share to select, in [0, 1]: 5 % is 0.05.
        group: `model`, as in Chen et al.; or `layer`, the same share of every layer.

    Raises:
        UserError: `fraction` is outside [0, 1], the group is unknown, or a score is not valid.
    """
    if group not in NEURON_GROUPS:
        raise UserError(f"group must be one of {', '.join(NEURON_GROUPS)}, got {group!r}")
    plain = WeightScores(
        tensors=scores.tensors, method=scores.method, model_id=scores.model_id, space=scores.site
    )
    chosen = top_fractions(plain, [fraction], group=group)[float(fraction)]
    return NeuronSet(
        tensors=chosen.tensors,
        model_id=scores.model_id,
        reference_id=scores.reference_id,
        site=scores.site,
    )


def common_neurons(
    scores: Iterable[NeuronScores], fraction: float | int, *, group: str = "layer"
) -> NeuronSet:
    """Return the units that are in the top of every one of several scores. Zhao et al. 2025.

    With one score an example, as `ablation_effects` yields them: the units that matter for each
    prompt. Much smaller than the top itself, unless the prompts agree.

    Args:
        scores: Of the same units; each is asked for once.
        fraction: Share that is the top of each.
        group: As in `top_neurons`.

    Raises:
        UserError: There are no scores, or one is not valid.
    """
    found: NeuronSet | None = None
    for one in scores:
        top = top_neurons(one, fraction, group=group)
        found = top if found is None else found & top
    if found is None:
        raise UserError("there is no example to select from: the batches are empty")
    return found


def random_neurons(neurons: NeuronSet, *, seed: int) -> NeuronSet:
    """Draw a random set with as many units as `neurons` at every place.

    None of them is in the set, as far as the place has enough others: of a place whose larger half
    is in the set, the rest is drawn from the set itself, and `(control & neurons).num_selected`
    says how many.

    Args:
        neurons: The set to match.
        seed: Another seed gives another set.
    """
    tensors = {}
    for name, members in neurons.tensors.items():
        inside = members.flatten().cpu().numpy().astype(np.uint8)
        num_inside = int(inside.sum())
        num_outside = min(num_inside, inside.size - num_inside)
        wanted = np.array([num_outside, num_inside - num_outside], dtype=np.int64)
        drawn = _draw.draw(inside, wanted, _draw.stream(seed, f"{neurons.site} {name}"))
        tensors[name] = torch.from_numpy(drawn).view(members.shape)
    return dataclasses.replace(neurons, tensors=tensors)


class LayerShare(NamedTuple):
    """How much of a set is in one layer."""

    layer: int
    num_selected: int
    num_units: int


def layer_shares(neurons: NeuronSet) -> list[LayerShare]:
    """Return the members and units of every layer, in order."""
    counts: dict[int, list[int]] = {}
    for name, members in neurons.tensors.items():
        layer = layer_index(name)
        assert layer is not None, "units are in blocks"
        found = counts.setdefault(layer, [0, 0])
        found[0] += int(members.sum())
        found[1] += members.numel()
    return [LayerShare(layer, *counts[layer]) for layer in sorted(counts)]


class SparsityPoint(NamedTuple):
    """The share of all squared scores that the top share of units holds."""

    fraction: float
    energy: float


def sparsity_curve(scores: NeuronScores) -> list[SparsityPoint]:
    """Return how concentrated scores are: what share of their squares the top units hold.

    Uniform scores give the diagonal. Shares from one unit to all, evenly spaced in the logarithm.
    """
    flat = torch.cat([tensor.flatten().double().cpu() for tensor in scores.tensors.values()])
    squares = flat.square().sort(descending=True).values
    total = float(squares.sum())
    cumulative = squares.cumsum(0)
    sizes = sorted({round(len(flat) ** (step / 40)) for step in range(41)})
    return [
        SparsityPoint(size / len(flat), float(cumulative[size - 1]) / total if total else 0.0)
        for size in sizes
    ]


def units_by_layer(tensors: Mapping[str, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Return scores or members of every layer joined, flat, in the order of the model."""
    found: dict[int, list[torch.Tensor]] = {}
    for name, tensor in tensors.items():
        layer = layer_index(name)
        assert layer is not None, "units are in blocks"
        found.setdefault(layer, []).append(tensor.flatten().cpu())
    return {layer: torch.cat(parts) for layer, parts in sorted(found.items())}
