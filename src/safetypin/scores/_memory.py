"""How many blocks may keep their activations for the backward pass."""

import dataclasses
from collections.abc import Iterable, Sequence

from torch import nn
from transformers import PreTrainedModel

from safetypin.artifacts import Batch
from safetypin.models import block_weights, blocks

# Activations may take this share of what parameters and scores take. A block beyond it runs twice,
# which costs about a quarter of its time.
ACTIVATION_SHARE = 0.05
KEPT_SHARE = 0.75


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationBudget:
    """Memory for activations, and what they need.

    Attributes:
        blocks: The transformer blocks in order.
        num_bytes: For all activations of one pass.
        block_bytes: One block's activations for one token.
        logit_bytes: The logits of one token, in float32.
    """

    blocks: Sequence[nn.Module]
    num_bytes: float
    block_bytes: float
    logit_bytes: int

    @classmethod
    def of(
        cls, model: PreTrainedModel, num_scores: int, *, share: float = ACTIVATION_SHARE
    ) -> "ActivationBudget":
        """Return the budget of a model: a share of its parameters and of float32 scores.

        A block is taken to keep KEPT_SHARE of the inputs and outputs of its matrices. Measured, it
        is 0.62 for Llama in float32, whose inputs and activations can be made again, and 0.9 in
        bfloat16.
        """
        layers, parameters = list(blocks(model)), list(model.parameters())
        held = 4 * num_scores + sum(p.numel() * p.element_size() for p in parameters)
        features = sum(weight.d_in + weight.d_out for weight in block_weights(model).values())
        return cls(
            blocks=layers,
            num_bytes=share * held,
            block_bytes=KEPT_SHARE * features * parameters[0].element_size() / len(layers),
            logit_bytes=4 * model.config.get_text_config().vocab_size,
        )

    def costly_blocks(self, batch: Batch) -> Iterable[nn.Module]:
        """Return the first blocks, as many as must run twice for the rest to fit."""
        free = self.num_bytes - self.logit_bytes * int((batch.labels != -100).sum())
        num_kept = int(free / (self.block_bytes * batch.input_ids.numel()))
        return self.blocks[: max(0, len(self.blocks) - max(1, num_kept))]
