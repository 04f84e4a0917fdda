"""Rewind: train everything, then put the masked weights back. Wei et al. 2024, section 4.4.

The paper calls this freezing. It is not: the other weights were trained beside masked weights
that moved, and never meet the old ones before the end.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from safetypin.artifacts import WeightMask
from safetypin.intervene.protect._held import HeldWeights
from safetypin.intervene.protect._protection import Guard, Protection, check_trainable


@dataclasses.dataclass(frozen=True)
class Rewind(Protection):
    """Full fine-tuning, after which the masked weights get their old values back.

    The checkpoints in between are not rewound.

    Attributes:
        mask: The weights to put back.
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
        """Keep the masked values and put them back at the end."""
        held = HeldWeights(model, self.mask.tensors)
        return Guard(model=model, after_training=held.restore, measure=held.measure)
