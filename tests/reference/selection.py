"""Slow and readable versions of selection, overlap and Tango's interval, in float64."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

Z_95 = 1.959963984540054


def top_of_group(tensors: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """Rank all scores by one stable sort; mark round(fraction * n) of them, but none of 0."""
    joined = torch.cat([tensor.double().flatten() for tensor in tensors.values()])
    order = joined.argsort(descending=True, stable=True)
    members = torch.zeros(joined.numel(), dtype=torch.bool)
    members[order[: round(fraction * joined.numel())]] = True
    members &= joined > 0
    masks, start = {}, 0
    for name, tensor in tensors.items():
        stop = start + tensor.numel()
        masks[name] = members[start:stop].view(tensor.shape)
        start = stop
    return masks


def top_of_parts(tensor: Tensor, fraction: float) -> Tensor:
    """Do `top_of_group` for every part `tensor[i]` by itself."""
    return torch.stack([top_of_group({"": part}, fraction)[""] for part in tensor])


def hypergeometric_moments(num_weights: int, num_a: int, num_b: int) -> tuple[float, float]:
    """Return mean and variance of the shared number, summed over its whole distribution."""
    support = range(max(0, num_a + num_b - num_weights), min(num_a, num_b) + 1)
    total = math.comb(num_weights, num_b)
    weights = [
        math.comb(num_a, k) * math.comb(num_weights - num_a, num_b - k) / total for k in support
    ]
    mean = sum(k * weight for k, weight in zip(support, weights, strict=True))
    square = sum(k * k * weight for k, weight in zip(support, weights, strict=True))
    return mean, square - mean**2


def tango_interval(num_up: int, num_down: int, num_pairs: int) -> tuple[float, float]:
    """Return the differences that Tango's score test does not reject, searched on a grid.

    The share of falls under each difference maximises the likelihood over a grid of its own.
    """
    accepted = []
    change = num_up - num_down
    for delta in np.linspace(-0.999, 0.999, 1999):
        falls = np.linspace(max(0.0, -delta), (1 - delta) / 2, 20_001)[1:-1]
        steady = 1 - 2 * falls - delta
        log_likelihood = (
            num_up * np.log(falls + delta)
            + num_down * np.log(falls)
            + (num_pairs - num_up - num_down) * np.log(steady)
        )
        best = falls[log_likelihood.argmax()]
        variance = num_pairs * (2 * best + delta - delta**2)
        if abs(change - num_pairs * delta) <= Z_95 * math.sqrt(variance):
            accepted.append(float(delta))
    return min(accepted), max(accepted)


def holm(p_values: Iterable[float]) -> list[float]:
    """Return the smallest level at which Holm's procedure rejects each hypothesis."""
    values = list(p_values)
    ranked = sorted(range(len(values)), key=lambda index: values[index])
    adjusted, largest = [0.0] * len(values), 0.0
    for place, index in enumerate(ranked):
        largest = max(largest, (len(values) - place) * values[index])
        adjusted[index] = min(largest, 1.0)
    return adjusted
