"""Queries and keys as they enter the product, in any architecture.

transformers hands them to a function that the config names: after projection, norms and rotation,
before the grouped keys are repeated. While in the block that function is ours.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from safetypin.artifacts import UserError

NAME = "safetypin_reading"


class Attention(NamedTuple):
    """One attention layer at work.

    Attributes:
        module: The attention module.
        query: After rotation.
        key: After rotation, its heads not yet repeated.
        scaling: Factor of the product, `1 / sqrt(d)` as a rule.
        mask: Added to the product, if any.
        softcap: Limit of the product by tanh, if any.
    """

    module: nn.Module
    query: Float[Tensor, "batch heads q_len d"]
    key: Float[Tensor, "batch kv_heads k_len d"]
    scaling: float
    mask: Float[Tensor, "..."] | None
    softcap: float | None

    def logits(
        self, product: Float[Tensor, "*any q_len k_len"]
    ) -> Float[Tensor, "*any q_len k_len"]:
        """Return what the softmax is taken of, given the unscaled product."""
        scaled = product * self.scaling
        if self.softcap is not None:
            scaled = torch.tanh(scaled / self.softcap) * self.softcap
        return scaled if self.mask is None else scaled + self.mask[..., : product.shape[-1]]


OnAttention = Callable[[Attention], None]


@contextmanager
def read_attention(model: PreTrainedModel, on_attention: OnAttention) -> Iterator[None]:
    """Show queries and keys of every attention layer, while in the block.

    Raises:
        UserError: An attention layer has more to its softmax than product and mask.
    """

    def read(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        **options: Any,  # noqa: ANN401 - of transformers
    ) -> tuple[Tensor, Tensor]:
        if options.get("s_aux") is not None:
            raise UserError(
                f"the attention of {type(module).__name__} has sinks, whose effect is not known; "
                "use site 'neuron'"
            )
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        seen = Attention(module, query, key, scale, attention_mask, softcap)
        on_attention(seen)
        return _attend(seen, value)

    config = model.config.get_text_config()
    own = config._attn_implementation
    AttentionInterface.register(NAME, read)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    try:
        config._attn_implementation = NAME
        yield
    finally:
        config._attn_implementation = own
        AttentionInterface._global_mapping.pop(NAME, None)
        AttentionMaskInterface._global_mapping.pop(NAME, None)


def _attend(seen: Attention, value: Tensor) -> tuple[Tensor, Tensor]:
    groups = seen.query.shape[1] // seen.key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (seen.key, value))
    logits = seen.logits(seen.query @ key.mT)
    weights = logits.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights
