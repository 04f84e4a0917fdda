"""WaRP by the book in float64: all inputs kept, gradients by autograd, W = C U^T trained itself."""

import copy

import torch
from torch import nn

from reference.scores import doubled, rows_of


def inputs_by_brute_force(model, batches, names):
    """Return the counted rows of each weight's input, by parameter name."""
    model = doubled(model)
    seen = {name: [] for name in names}
    for name in names:
        module = model.get_submodule(name.removesuffix(".weight"))
        module.register_forward_pre_hook(
            lambda _, args, n=name: seen[n].append(args[0].flatten(0, -2))
        )
    counts = []
    with torch.no_grad():
        for ids, counted in rows_of(batches):
            model(ids)
            counts.append(counted)
    chosen = torch.cat(counts)
    return {name: torch.cat(parts)[chosen] for name, parts in seen.items()}


def importance_by_brute_force(model, batches, basis):
    """Return the mean over examples of |dL/dC|, by the weight's own gradient."""
    model = doubled(model)
    total = dict.fromkeys(basis.sites, 0)
    num_examples = 0
    for ids, counted in rows_of(batches):
        model.zero_grad()
        model(ids, labels=ids.masked_fill(~counted, -100)).loss.backward()
        for name in total:
            gradient = model.get_parameter(name).grad
            total[name] = total[name] + basis.rotated(name, gradient).abs()
        num_examples += 1
    return {name: value / num_examples for name, value in total.items()}


class Reparametrised(nn.Module):
    """W = C U^T, where the masked entries of C are constants."""

    def __init__(self, weight, frozen, directions, *, is_transposed):
        super().__init__()
        self.directions, self.frozen, self.is_transposed = directions, frozen, is_transposed
        start = directions.T @ weight if is_transposed else weight @ directions
        self.constant = start.detach().clone()
        self.free = nn.Parameter(start.detach()[~frozen].clone())

    def forward(self):
        whole = self.constant.masked_scatter(~self.frozen, self.free)
        return self.directions @ whole if self.is_transposed else whole @ self.directions.T


def train_reparametrised(
    model, batch, basis, mask, *, steps, rate, weight_decay, max_norm=0.0, make=torch.optim.AdamW
):
    """Train C of every masked matrix on one batch, again and again; return the weights."""
    model = doubled(copy.deepcopy(model))
    model.requires_grad_(False)
    parts = {}
    for name, frozen in mask.tensors.items():
        weight = model.get_parameter(name).detach()
        is_transposed = name in basis.transposed
        size = weight.shape[0 if is_transposed else 1]
        own = basis.of(name)
        directions = torch.eye(size).double() if own is None else own.double()
        parts[name] = Reparametrised(weight, frozen, directions, is_transposed=is_transposed)
    free = [part.free for part in parts.values()]
    optimizer = make(free, lr=rate, weight_decay=weight_decay)
    for _ in range(steps):
        weights = {name: part() for name, part in parts.items()}
        loss = torch.func.functional_call(model, weights, kwargs=batch).loss
        optimizer.zero_grad()
        loss.backward()
        if max_norm:
            torch.nn.utils.clip_grad_norm_(free, max_norm)
        optimizer.step()
    return {name: part().detach() for name, part in parts.items()}
