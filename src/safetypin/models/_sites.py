"""Which linear layers read one input, and which blocks a user means by a word."""

import re
from collections.abc import Mapping

from torch import nn

from safetypin.artifacts import UserError
from safetypin.models._layers import BlockWeight, block_weights, num_layers

# the layers that read one and the same input, by role
SHARED = {
    "attn_q": "qkv", "attn_k": "qkv", "attn_v": "qkv", "ffn_gate": "in", "ffn_up": "in",
}  # fmt: skip
# where the parts of a model of 32 blocks end in the published code: after 11, 22 and 32
PARTS = {"early": (0, 11), "middle": (11, 22), "late": (22, 32)}
PART_BLOCKS = 32
LAYER_WORDS = ("all", *PARTS, "last")


def input_sites(weights: Mapping[str, BlockWeight]) -> dict[str, str]:
    """Return the input site of each weight, by parameter name.

    Weights of one site read the same tensor: query, key and value of one attention, gate and up of
    one gated MLP. Every other weight has a site of its own, named after its module.

    Raises:
        UserError: A weight is the experts of a mixture, each of which reads other tokens.
    """
    sites = {}
    for name, weight in weights.items():
        if weight.layout == "experts":
            raise UserError(
                f"{name} holds the experts of a mixture, which have no one input; choose other "
                "modules, such as --modules attn_q,attn_k,attn_v,attn_o"
            )
        parent = weight.module_name.rpartition(".")[0]
        shared = SHARED.get(weight.role)
        sites[name] = f"{parent}.{shared}" if shared else weight.module_name
    return sites


def chosen_layers(text: str, num_layers: int) -> tuple[int, ...]:
    """Return the blocks that a word, a number or a range means, in order.

    Args:
        text: `all`, `early`, `middle`, `late` (thirds, as the published code cuts 32 blocks after
            11 and 22), `last`, `31`, `30-31`, or several of these with commas between them.
        num_layers: Blocks of the model.

    Raises:
        UserError: It is none of these, or a block that the model has not.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        chosen |= set(_part(part.strip(), num_layers))
    return tuple(sorted(chosen))


def _part(text: str, num_layers: int) -> range:
    if text == "all":
        return range(num_layers)
    if text == "last":
        return range(num_layers - 1, num_layers)
    if text in PARTS:
        first, end = (round(place * num_layers / PART_BLOCKS) for place in PARTS[text])
        if first == end:
            raise UserError(f"a model of {num_layers} blocks has no {text} ones; name them: 0")
        return range(first, end)
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if found is None:
        raise UserError(
            f"layers {text!r} is none of {', '.join(LAYER_WORDS)}, a number such as 31 or a range "
            "such as 30-31"
        )
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first or last >= num_layers:
        raise UserError(
            f"layers {text!r}: the model has the blocks 0 to {num_layers - 1}, and a range goes "
            "from the lower to the higher"
        )
    return range(first, last + 1)


def weights_of_layers(
    model: nn.Module, targets: tuple[str, ...] | None = None, layers: str = "all"
) -> dict[str, BlockWeight]:
    """Return the weight matrices of some layers that have one input each, in model order.

    Args:
        model: A decoder of transformers.
        targets: Patterns as `block_weights` takes them; all but the experts of a mixture where
            None.
        layers: As `chosen_layers` takes them.

    Raises:
        UserError: Nothing is left, or a target means the experts of a mixture.
    """
    found = block_weights(model, targets)
    chosen = chosen_layers(layers, num_layers(model))
    kept = {name: weight for name, weight in found.items() if weight.layer in chosen}
    if targets is None:
        kept = {name: weight for name, weight in kept.items() if weight.layout != "experts"}
    if not kept:
        raise UserError(
            f"the layers {layers!r} have none of the modules {', '.join(targets or ('all',))}; "
            "choose others with --layers or --modules"
        )
    input_sites(kept)  # raises for experts
    return kept
