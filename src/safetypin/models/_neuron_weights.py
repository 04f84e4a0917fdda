"""Which weights make a unit."""

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from safetypin.artifacts import NeuronSet, UserError, WeightMask
from safetypin.models._identity import model_id
from safetypin.models._layers import BlockWeight, block_weights
from safetypin.models._neurons import check_neurons

READING = ("ffn_gate", "ffn_up", "ffn_gate_up")


def key_coordinate(index: int, *, num_heads: int, num_kv_heads: int, head_dim: int) -> int:
    """Return which key coordinate a query coordinate meets.

    With grouped queries, `groups` neighbouring query heads share a key head, so
    `key = index // (groups * head_dim) * head_dim + index % head_dim`. The published code divides
    by the number of groups, which is right for none but the first head.
    """
    groups = num_heads // num_kv_heads
    return index // (groups * head_dim) * head_dim + index % head_dim


def neuron_weights(model: nn.Module, neurons: NeuronSet) -> WeightMask:
    """Return the weights that make the units of a set.

    Of a neuron: its rows of the gate and up projections and its column of the down projection. Of a
    query coordinate: its row of the query projection, and the row of the key projection that it
    meets. Weights of other matrices are in the mask's range, but no members.

    Raises:
        ArtifactMismatchError: The set is of another model.
        UserError: Residual coordinates, which no weight is for; or queries, keys and values in one
            matrix.
    """
    if neurons.site == "residual":
        raise UserError(
            "a residual coordinate is made by all weights that write to it; score at site neuron "
            "or query to get weights"
        )
    sites = check_neurons(model, neurons)
    weights = block_weights(model)
    tensors = {name: torch.zeros(w.weight.shape, dtype=torch.bool) for name, w in weights.items()}
    for name, members in neurons.tensors.items():
        if not members.any():
            continue
        layer = {n: w for n, w in weights.items() if w.layer == sites[name].layer}
        marked = _of_mlp if neurons.site == "neuron" else _of_attention
        for weight, rows in marked(model, name, members, layer).items():
            tensors[weight] |= rows
    return WeightMask(tensors=tensors, model_id=model_id(model))


Marked = dict[str, Bool[Tensor, "..."]]


def _of_mlp(
    model: nn.Module, name: str, members: Tensor, weights: dict[str, BlockWeight]
) -> Marked:
    down = weights.get(name) or weights[f"{name}.weight"]
    parent = down.module_name if down.layout == "experts" else down.module_name.rpartition(".")[0]
    found = {down.name: _columns(down, members)}
    for weight in weights.values():
        inside = weight.module_name == parent or weight.module_name.rpartition(".")[0] == parent
        if inside and weight.role.removeprefix("expert_") in READING:
            fused = weight.role.endswith("gate_up")
            rows = torch.cat([members, members], dim=-1) if fused else members
            found[weight.name] = _rows(weight, rows)
    return found


def _of_attention(
    model: nn.Module, name: str, members: Tensor, weights: dict[str, BlockWeight]
) -> Marked:
    inside = {w.role: w for w in weights.values() if w.module_name.startswith(f"{name}.")}
    if "attn_q" not in inside or "attn_k" not in inside:
        raise UserError(
            f"{name} has queries, keys and values in one matrix; which row is whose is not known"
        )
    query, key = inside["attn_q"], inside["attn_k"]
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    num_heads = config.num_attention_heads
    size = query.d_out // num_heads
    shape = {"num_heads": num_heads, "num_kv_heads": key.d_out // size, "head_dim": size}
    met = torch.zeros(key.d_out, dtype=torch.bool)
    for index in members.nonzero()[:, 0].tolist():
        met[key_coordinate(index, **shape)] = True
    return {query.name: _rows(query, members), key.name: _rows(key, met)}


def _rows(weight: BlockWeight, members: Tensor) -> Tensor:
    """Return a weight's entries that lead to some outputs."""
    along = members[None, :] if weight.layout == "conv1d" else members[..., None]
    return along.expand(weight.weight.shape)


def _columns(weight: BlockWeight, members: Tensor) -> Tensor:
    """Return a weight's entries that come from some inputs."""
    along = {"linear": members[None], "conv1d": members[:, None]}.get(
        weight.layout, members[..., None, :]
    )
    return along.expand(weight.weight.shape)
