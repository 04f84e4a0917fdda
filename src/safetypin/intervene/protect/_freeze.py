"""Freeze: the masked weights keep their values bit for bit, all others are trained."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from safetypin.artifacts import WeightMask
from safetypin.intervene.protect._held import HeldWeights
from safetypin.intervene.protect._protection import Guard, Protection, check_trainable


@dataclasses.dataclass(frozen=True)
class Freeze(Protection):
    """Full fine-tuning in which the masked weights never change.

    Their values are put back after every optimizer step: a gradient hook would let weight decay
    and earlier momentum move them. What clips the gradients still sees those of the masked weights.

    Attributes:
        mask: The weights to freeze.
    """

    mask: WeightMask

    @property
    def settings(self) -> Mapping[str, Any]:
        """What tells this protection from another."""
        return {**super().settings, "mask": self.mask.fingerprint}

    def check(self, model: PreTrainedModel) -> None:
        """Raise unless the mask is of this model and all of it would be trained."""
        check_trainable(model, self.mask)

    def begin(self, model: PreTrainedModel) -> Guard:
        """Keep the masked values and put them back after every step."""
        held = HeldWeights(model, self.mask.tensors)
        # some optimizers show other weights while training than at the end
        return Guard(
            model=model,
            after_step=held.restore,
            after_training=held.restore,
            measure=held.measure,
        )
