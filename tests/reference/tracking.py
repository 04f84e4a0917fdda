"""Drift, its permutation test and score dynamics by plain loops in float64."""

import math

import torch


def lora_change(left, right, scale):
    """Return scale * B A, entry by entry."""
    rank = right.shape[0]
    change = torch.zeros(left.shape[0], right.shape[1], dtype=torch.float64)
    for i in range(left.shape[0]):
        for j in range(right.shape[1]):
            change[i, j] = scale * sum(float(left[i, k]) * float(right[k, j]) for k in range(rank))
    return change


def cosine(before, after):
    """Return the cosine of two vectors; of a vector of zeros 1 if both are, else 0."""
    a, b = before.double(), after.double()
    lengths = float(a.norm()) * float(b.norm())
    if not lengths:
        return float(torch.equal(a, b))
    return float(a @ b) / lengths


def members_of(masks):
    """Yield name, row and column of each member."""
    for name, mask in masks.items():
        for i, j in mask.nonzero().tolist():
            yield name, i, j


def drift_by_hand(before, after, masks):
    """Return every measure over the members of (d_out, d_in) masks, one member at a time."""
    absolute, squares, sizes, cosines, relative, changed = [], [], [], [], [], []
    for name, i, j in members_of(masks):
        old, new = before[name].double(), after[name].double()
        change, weight = float(new[i, j] - old[i, j]), float(old[i, j])
        absolute.append(abs(change) / math.sqrt(float(old.square().mean())))
        squares.append(change**2)
        sizes.append(weight**2)
        cosines.append(cosine(old[i], new[i]))
        relative.append(abs(change) / abs(weight) if abs(weight) > 1e-8 else 0.0)
        changed.append(float(change != 0))
    count = len(absolute)
    return {
        "rms_units": sum(absolute) / count,
        "norm_ratio": math.sqrt(sum(squares) / sum(sizes)),
        "row_cosine": sum(cosines) / count,
        "relative_change": sum(relative) / count,
        "changed_share": sum(changed) / count,
    }


def relabelled_sums(values, mask, num_permutations, seed):
    """Return the sum over the members after moving whole rows and whole columns at random."""
    generator = torch.Generator().manual_seed(seed)
    sums = []
    for _ in range(num_permutations):
        rows = torch.randperm(values.shape[0], generator=generator)
        columns = torch.randperm(values.shape[1], generator=generator)
        sums.append(float(values.double()[rows][:, columns][mask].sum()))
    return torch.tensor(sums, dtype=torch.float64)


def rank_by_counting(scores, value):
    """Return the share of scores below the value, those equal to it counted half."""
    below = sum(float(s) < float(value) for s in scores.flatten())
    equal = sum(float(s) == float(value) for s in scores.flatten())
    return (below + equal / 2) / scores.numel()
