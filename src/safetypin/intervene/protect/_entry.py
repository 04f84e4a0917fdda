"""A LoRA layer whose change is zero at chosen entries of the weight."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional


class EntryLinear(Linear):
    """LoRA with the effective change `(1 - M) * s B A`.

    The product is made before it is applied, `W = W0 + (1 - M) * s B A`, and takes the place of the
    frozen weight, so that a step costs one more multiplication of the weight's size (its gradient)
    and masked entries are the frozen ones bit for bit. In mixed precision the sum is made in
    float32 and then rounded, as a trained weight is.

    Dropout takes away the same input features of the adapter for a whole micro-batch, where plain
    LoRA draws anew for each token: then there still is one product.

    Attributes:
        masked: The masked entries, in the weight's own layout; None: none, plain LoRA.
    """

    masked: Bool[Tensor, "..."] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - PEFT's own
        super().__init__(*args, **kwargs)
        self.register_buffer("masked", None, persistent=False)

    def get_delta_weight(self, adapter: str) -> Float[Tensor, "..."]:
        """Return the change of the weight, for merging."""
        change = super().get_delta_weight(adapter)
        # adding -0.0 leaves every bit of a number, adding 0.0 would make -0.0 into 0.0
        return change if self.masked is None else change.masked_fill_(self.masked, -0.0)

    def forward(
        self,
        x: Float[Tensor, "..."],
        *args: Any,  # noqa: ANN401 - PEFT's own
        **kwargs: Any,  # noqa: ANN401
    ) -> Float[Tensor, "..."]:
        """Apply the layer; as PEFT's where the adapter is off, merged, or has no masked entry."""
        if self.masked is None or self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        base: nn.Linear = self.get_base_layer()  # type: ignore[assignment]  # or a Conv1D
        with torch.autocast(x.device.type, enabled=False):
            weight = self._effective_weight(base.weight, self.masked)
        if not torch.is_autocast_enabled(x.device.type):
            weight = weight.to(x.dtype)
        return functional.linear(x, weight.T if self.fan_in_fan_out else weight, base.bias)

    def _effective_weight(
        self, frozen: Float[Tensor, "..."], masked: Bool[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        (adapter,) = self.active_adapters
        left: Tensor = self.lora_B[adapter].weight  # type: ignore[assignment]
        right: Tensor = self.lora_A[adapter].weight  # type: ignore[assignment]
        rate = getattr(self.lora_dropout[adapter], "p", 0.0)
        if self.training and rate:
            right = right * functional.dropout(right.new_ones(right.shape[1]), rate)
        if self.fan_in_fan_out:
            left, right = right.T, left.T
        wide = frozen.to(left.dtype)
        changed = torch.addmm(wide, left, right, alpha=self.scaling[adapter])
        return torch.where(masked, wide, changed)
