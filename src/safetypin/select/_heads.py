"""From scores of attention heads to sets. Ties are the rule here, and are broken at random.

A probe on a hundred prompts has a hundred accuracies to give to a thousand heads. The published
code takes the first of those at exactly 1, and these are in layers 0 to 9.
"""

import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from safetypin.artifacts import NeuronScores, NeuronSet, UserError
from safetypin.select import _draw


class Ties(NamedTuple):
    """How many heads have the lowest score of a set, and how many of them are in it."""

    num_tied: int
    num_taken: int


def top_heads(scores: NeuronScores, k: int, *, seed: int) -> NeuronSet:
    """Select the k heads with the highest scores; among equals, a random choice.

    Args:
        scores: Of all heads, such as `probe_heads` gives; finite.
        k: How many, over the whole model.
        seed: Another seed breaks ties in another way; `ties_at` says how many there are.

    Raises:
        UserError: k is negative or above the number of heads, or a score is not finite.
    """
    flat = _flat(scores, k)
    order = _draw_order(len(flat), seed, "heads")
    # a stable sort of a random order: equals stay in it
    ranked = order[flat[order].argsort(descending=True, stable=True)]
    members = torch.zeros(len(flat), dtype=torch.bool)
    members[ranked[:k]] = True
    return NeuronSet(
        tensors=_split(members, {name: len(tensor) for name, tensor in scores.tensors.items()}),
        model_id=scores.model_id,
        reference_id=scores.reference_id,
        site=scores.site,
    )


def ties_at(scores: NeuronScores, k: int) -> Ties:
    """Return how many heads share the lowest score of the top k, and how many of them it takes.

    Raises:
        UserError: As `top_heads` says.
    """
    flat = _flat(scores, k)
    if k == 0:
        return Ties(0, 0)
    cut = flat.sort(descending=True).values[k - 1]
    return Ties(int((flat == cut).sum()), k - int((flat > cut).sum()))


def random_heads(heads: NeuronSet, *, seed: int) -> NeuronSet:
    """Draw as many random heads as a set has, over the whole model.

    None of them is in the set, as far as the model has enough others.

    Args:
        heads: The set to match.
        seed: Another seed gives another set.
    """
    taken = torch.cat([members.cpu() for members in heads.tensors.values()])
    # not the stream that breaks ties: of tied heads those that just missed the set would come first
    order = _draw_order(len(taken), seed, "random heads")
    ranked = order[taken[order].int().argsort(stable=True)]  # those outside come first
    members = torch.zeros_like(taken)
    members[ranked[: heads.num_selected]] = True
    sizes = {name: len(tensor) for name, tensor in heads.tensors.items()}
    return dataclasses.replace(heads, tensors=_split(members, sizes))


def _flat(scores: NeuronScores, k: int) -> Float[Tensor, " heads"]:
    flat = torch.cat([tensor.cpu() for tensor in scores.tensors.values()])
    if not 0 <= k <= len(flat):
        raise UserError(f"the model has {len(flat)} heads; k must be between 0 and that, got {k}")
    if not flat.isfinite().all():
        raise UserError(f"some {scores.method} scores of heads are not finite; score again")
    return flat


def _draw_order(count: int, seed: int, name: str) -> Tensor:
    keys = _draw.stream(seed, name).random_raw(count)
    return torch.from_numpy(keys.argsort(kind="stable"))


def _split(members: Bool[Tensor, " heads"], sizes: dict[str, int]) -> dict[str, Tensor]:
    parts = members.split(list(sizes.values()))
    return {name: part.clone() for name, part in zip(sizes, parts, strict=True)}
