"""Where attention heads can be read and silenced: at the input of the output projection.

There every query head has a slice of its own, also where several share a key head, and also where
queries, keys and values are made by one matrix. The published code prunes rows of that projection
instead of columns, which leaves the heads it names at work.
"""

import dataclasses

from torch import nn

from safetypin.artifacts import ArtifactMismatchError, NeuronSet, UserError
from safetypin.models._layers import block_weights

HEAD = "head"  # the site of sets and scores of heads


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HeadSite:
    """The heads of one attention layer.

    Attributes:
        name: Of the output projection, as in `model.named_modules()`.
        layer: Index of the block.
        module: The output projection, whose input holds the heads side by side.
        parameter: Its weight's name.
        num_heads: Query heads.
        head_dim: Coordinates of each.
    """

    name: str
    layer: int
    module: nn.Module
    parameter: str
    num_heads: int
    head_dim: int


def head_sites(model: nn.Module) -> dict[str, HeadSite]:
    """Return the attention layers with their heads by name, in model order.

    Raises:
        UserError: The model has no known output projection, carries unmerged adapters, or an input
            that its heads do not divide.
    """
    heads = int(model.config.get_text_config().num_attention_heads)  # type: ignore[operator, union-attr]
    found = {}
    for weight in block_weights(model).values():
        if weight.role != "attn_o":
            continue
        if weight.d_in % heads:
            raise UserError(
                f"{weight.module_name} reads {weight.d_in} coordinates, which {heads} heads do not "
                "divide; which coordinate is of which head is not known"
            )
        found[weight.module_name] = HeadSite(
            name=weight.module_name,
            layer=weight.layer,
            module=weight.module,
            parameter=weight.parameter,
            num_heads=heads,
            head_dim=weight.d_in // heads,
        )
    if not found:
        raise UserError(
            f"no attention head of {type(model).__name__} is known: its blocks have no output "
            "projection of a known name"
        )
    return found


def check_heads(model: nn.Module, heads: NeuronSet) -> dict[str, HeadSite]:
    """Return the places of a set's heads in a model.

    Raises:
        UserError: The set is not one of heads.
        ArtifactMismatchError: The model has no such heads.
    """
    if heads.site != HEAD:
        raise UserError(f"the set is of units at site {heads.site}, not of heads; use `ablated`")
    sites = head_sites(model)
    for name, members in heads.tensors.items():
        if name not in sites:
            raise ArtifactMismatchError(
                f"the set is of another model: {type(model).__name__} has no heads at {name!r}"
            )
        if (sites[name].num_heads,) != tuple(members.shape):
            raise ArtifactMismatchError(
                f"the set is of another model: {name} has {len(members)} heads in the set and "
                f"{sites[name].num_heads} in the model"
            )
    return sites
