"""SparseGPT's saliency as its published code computes it, in float64, inputs all kept."""

import torch
from torch import Tensor

from reference.scores import doubled, rows_of
from safetypin.models import block_weights


def sparsegpt_by_the_book(weight: Tensor, gram: Tensor, damping: float = 0.01) -> Tensor:
    """Return W_ij^2 / U_jj^2 of W (d_out, d_in), by way of the inverse and its Cholesky factor."""
    gram, weight = gram.clone(), weight.clone()
    dead = gram.diagonal() == 0
    gram[dead, dead] = 1
    weight[:, dead] = 0
    mean = (gram.diagonal() * ~dead).mean()
    gram += damping * mean * torch.eye(len(gram)).double()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    factor = torch.linalg.cholesky(inverse, upper=True)
    return weight**2 / factor.diagonal() ** 2


def sparsegpt_by_brute_force(model, batches):
    """Return the roots of the saliency of every weight that is no expert's, by name."""
    model = doubled(model)
    weights = {n: w for n, w in block_weights(model).items() if w.layout != "experts"}
    seen = {name: [] for name in weights}
    for name, weight in weights.items():
        weight.module.register_forward_pre_hook(
            lambda _, args, n=name: seen[n].append(args[0].flatten(0, -2))
        )
    counts = []
    with torch.no_grad():
        for ids, counted in rows_of(batches):
            model(ids)
            counts.append(counted)
    chosen, scores = torch.cat(counts), {}
    for name, weight in weights.items():
        rows = torch.cat(seen[name])[chosen]
        is_conv1d = weight.layout == "conv1d"
        matrix = weight.weight.detach().T if is_conv1d else weight.weight.detach()
        found = sparsegpt_by_the_book(matrix, rows.T @ rows / len(rows)).sqrt()
        scores[name] = found.T if is_conv1d else found
    return scores
