"""Which weights a decoder's blocks have, and what each is for.

All knowledge of architectures is here: a weight is known by its role (the query projection, the
down projection), which follows from where in the block it sits, what it is called there and
whether its shape fits; never from a full name. Whatever is not known is listed as not covered.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from typing import Literal

from jaxtyping import Shaped
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from safetypin.artifacts import UserError

Layout = Literal["linear", "conv1d", "experts"]

# What a matrix is called, by its role, inside attention and outside it.
ATTENTION_NAMES = {
    "attn_q": ("q_proj",),
    "attn_k": ("k_proj",),
    "attn_v": ("v_proj",),
    "attn_o": ("o_proj", "out_proj", "c_proj", "dense"),
    "attn_qkv": ("qkv_proj", "query_key_value", "c_attn", "Wqkv"),
}
FFN_NAMES = {
    "ffn_gate": ("gate_proj", "w1"),
    "ffn_up": ("up_proj", "w3", "c_fc", "dense_h_to_4h", "fc1", "fc_in"),
    "ffn_gate_up": ("gate_up_proj",),
    "ffn_down": ("down_proj", "w2", "c_proj", "dense_4h_to_h", "fc2", "fc_out"),
}
WRITES_RESIDUAL = ("attn_o", "ffn_down")  # the others read it


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BlockWeight:
    """One weight matrix of a transformer block.

    Attributes:
        name: As in `model.named_parameters()`.
        module_name: As in `model.named_modules()`.
        module: The module that holds the weight.
        parameter: The weight's name in that module.
        layer: Index of the block.
        role: `attn_q`, `attn_k`, `attn_v`, `attn_o`, `attn_qkv` (fused), `ffn_gate`, `ffn_up`,
            `ffn_gate_up` (fused), `ffn_down`; with `expert_` before it in a mixture of experts.
        layout: `linear` is (d_out, d_in); `conv1d`, the layer of GPT-2, is (d_in, d_out);
            `experts` is (experts, d_out, d_in). Scores and masks have the weight's own layout.
    """

    name: str
    module_name: str
    module: nn.Module
    parameter: str
    layer: int
    role: str
    layout: Layout

    @property
    def weight(self) -> Shaped[Tensor, "..."]:
        """The weight itself, not a copy."""
        return self.module.get_parameter(self.parameter)

    @property
    def d_in(self) -> int:
        """Number of input features."""
        return self.weight.shape[0 if self.layout == "conv1d" else -1]

    @property
    def d_out(self) -> int:
        """Number of output features."""
        return self.weight.shape[-1 if self.layout == "conv1d" else -2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of a model has a score.

    Attributes:
        num_scored: Entries of the scored matrices.
        num_block_weights: Entries of all matrices of the transformer blocks.
        num_parameters: Entries of all parameters: also embeddings, head, norms and biases.
        not_covered: Names of the blocks' matrices that are not scored, such as routers.
    """

    num_scored: int
    num_block_weights: int
    num_parameters: int
    not_covered: tuple[str, ...]

    @property
    def fraction(self) -> float:
        """Share of the blocks' weights that is scored, in [0, 1]."""
        return self.num_scored / self.num_block_weights

    def __str__(self) -> str:
        text = f"{self.fraction:.1%} of block weights scored"
        if not self.not_covered:
            return text
        return f"{text}; {len(self.not_covered)} matrices are not, first {self.not_covered[0]}"


def block_weights(
    model: nn.Module, targets: tuple[str, ...] | None = None
) -> dict[str, BlockWeight]:
    """Return the weight matrices of the transformer blocks by parameter name, in model order.

    Embeddings, head, norms, biases and routers are not among them; see `coverage`.

    Args:
        model: A decoder of transformers.
        targets: Patterns (as in a shell) of roles, module names or parameter names; every matrix
            without them.

    Raises:
        UserError: The model has no transformer block or no known matrix in them, carries unmerged
            adapters or quantised weights, or a pattern matches nothing.
    """
    _refuse_adapters(model)
    found = {weight.name: weight for weight in _known_weights(model)}
    if not found:
        raise UserError(
            f"no weight matrix of {type(model).__name__} is known; "
            f"its blocks hold {', '.join(name for name, _ in _matrices(model)[:3])}"
        )
    return found if targets is None else _matching(model, found, targets)


def transposed(weights: Mapping[str, BlockWeight]) -> frozenset[str]:
    """Return the names of the weights that are stored as (d_in, d_out)."""
    return frozenset(name for name, weight in weights.items() if weight.layout == "conv1d")


def coverage(model: nn.Module, targets: tuple[str, ...] | None = None) -> Coverage:
    """Return how much of the model `block_weights` finds, and what it does not."""
    scored = block_weights(model, targets)
    matrices = _matrices(model)
    return Coverage(
        num_scored=sum(weight.weight.numel() for weight in scored.values()),
        num_block_weights=sum(matrix.numel() for _, matrix in matrices),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        not_covered=tuple(name for name, _ in matrices if name not in scored),
    )


def blocks(model: nn.Module) -> nn.ModuleList:
    """Return the transformer blocks."""
    return _blocks(model)[1]


def num_layers(model: nn.Module) -> int:
    """Return the number of transformer blocks."""
    return len(blocks(model))


def _blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the name and the list of the transformer blocks: the longest list with attention.

    Only the text decoder is looked at where the model says which part that is: a vision tower
    may have more blocks.
    """
    root: nn.Module = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    inside = {id(module) for module in root.modules()}
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and id(module) in inside
        if len(module) and any(_is_attention(name, part) for name, part in module.named_modules())
    ]
    if not lists:
        raise UserError(
            f"{type(model).__name__} has no list of transformer blocks with attention; "
            "give a decoder such as AutoModelForCausalLM loads"
        )
    return max(lists, key=lambda item: len(item[1]))


def _is_attention(name: str, module: nn.Module) -> bool:
    leaf = name.rpartition(".")[2].lower()
    return "attn" in leaf or "attention" in leaf or "attention" in type(module).__name__.lower()


def _matrices(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the names and values of the blocks' parameters of two or more dimensions."""
    prefix = f"{_blocks(model)[0]}."
    return [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if name.startswith(prefix) and parameter.ndim >= 2
    ]


def _known_weights(model: nn.Module) -> Iterator[BlockWeight]:
    prefix, layers = _blocks(model)
    uses = Counter(
        id(parameter) for module in layers.modules() for parameter in module.parameters(False)
    )
    width = model.config.get_text_config().hidden_size  # type: ignore[operator, union-attr]
    for name, parameter in _matrices(model):
        module_name, _, attribute = name.rpartition(".")
        layer, _, path = module_name.removeprefix(f"{prefix}.").partition(".")
        module = model.get_submodule(module_name)
        layout = _layout(module, parameter)
        role = _role(layers[int(layer)], path, attribute)
        if layout is None or role is None or role.startswith("expert_") != (layout == "experts"):
            continue
        if uses[id(parameter)] > 1:  # a shared weight has more than one input
            continue
        weight = BlockWeight(
            name=name,
            module_name=module_name,
            module=module,
            parameter=attribute,
            layer=int(layer),
            role=role,
            layout=layout,
        )
        _refuse_unreadable(weight)
        if width == (weight.d_out if role.endswith(WRITES_RESIDUAL) else weight.d_in):
            yield weight


def _layout(module: nn.Module, parameter: nn.Parameter) -> Layout | None:
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, Conv1D):
        return "conv1d"
    if parameter.ndim == 3 and not getattr(module, "is_transposed", False):
        return "experts"
    return None


def _role(block: nn.Module, path: str, attribute: str) -> str | None:
    """Return the role of the parameter `attribute` of the module at `path` inside a block."""
    parts = path.split(".")
    parents = [".".join(parts[: end + 1]) for end in range(len(parts))]
    leaf = attribute
    if attribute == "weight":  # the last module is the linear layer, its name says which
        parents, leaf = parents[:-1], parts[-1]
    in_attention = any(_is_attention(name, block.get_submodule(name)) for name in parents)
    names = ATTENTION_NAMES if in_attention else FFN_NAMES
    role = next((role for role, leaves in names.items() if leaf in leaves), None)
    return f"expert_{role}" if role and "experts" in parts else role


def _matching(
    model: nn.Module, found: dict[str, BlockWeight], targets: tuple[str, ...]
) -> dict[str, BlockWeight]:
    def matches(weight: BlockWeight, pattern: str) -> bool:
        labels = (weight.role, weight.module_name, weight.name)
        return any(fnmatch(label, pattern) for label in labels)

    for pattern in targets:
        if not any(matches(weight, pattern) for weight in found.values()):
            example = next(iter(found.values()))
            roles = sorted({weight.role for weight in found.values()})
            raise UserError(
                f"target {pattern!r} matches no weight of {type(model).__name__}; give names "
                f"such as {example.module_name!r}, or roles: {', '.join(roles)}"
            )
    chosen = {n: w for n, w in found.items() if any(matches(w, pattern) for pattern in targets)}
    if not chosen:
        raise UserError("no target was given; leave targets out to score every weight")
    return chosen


def _refuse_adapters(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") or hasattr(module, "lora_A"):
            raise UserError(
                f"{type(model).__name__} carries an unmerged adapter at {name}: its effective "
                "weights are in no parameter; merge it first: model = model.merge_and_unload()"
            )


def _refuse_unreadable(weight: BlockWeight) -> None:
    if weight.weight.is_meta:
        raise UserError(f"{weight.name} is not in memory; load the model without disk offload")
    if not weight.weight.is_floating_point() or weight.weight.element_size() < 2:
        raise UserError(
            f"{weight.name} is quantised ({weight.weight.dtype}); "
            "load the model in bfloat16 or float32"
        )
