"""SN-Tune and RSN-Tune: only the weights of a set are trained. Zhao et al. 2025, sec. 5.

SN-Tune trains the safety neurons, RSN-Tune those of them that are not foundation neurons: give it
the set without them. The published code takes the first hundred of an unordered set of each layer;
here the set is by rank, as `top_neurons` or `contrast` made it. Departures: gradients of all other
weights are zero before they are clipped, and the other weights of a trained matrix are put back
after every step, so that neither weight decay nor momentum moves them.
"""

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from transformers import PreTrainedModel

from safetypin.artifacts import UserError, WeightMask
from safetypin.hooks import gradients_masked
from safetypin.intervene.protect._held import HeldWeights
from safetypin.intervene.protect._protection import Guard, Protection, check_trainable


@dataclasses.dataclass(frozen=True)
class OnlyTrain(Protection):
    """Full fine-tuning of the masked weights alone; no other weight of the model changes.

    Attributes:
        mask: The weights to train, such as `neuron_weights(model, safety - foundation)`.
    """

    mask: WeightMask

    @property
    def settings(self) -> Mapping[str, Any]:
        """What tells this protection from another."""
        return {**super().settings, "mask": self.mask.fingerprint}

    def check(self, model: PreTrainedModel) -> None:
        """Raise unless the mask is of this model and all of it can be trained."""
        check_trainable(model, self.mask)
        if self.mask.num_selected == self.mask.num_weights:
            raise UserError(
                "the mask holds every weight, so nothing would be left out; "
                "train without it (--protect none)"
            )

    def begin(self, model: PreTrainedModel) -> Guard:
        """Train the matrices that have a member, and hold what else is in them."""
        trained = {name: mask for name, mask in self.mask.tensors.items() if mask.any()}
        flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for name in trained:
            model.get_parameter(name).requires_grad_(True)
        held = HeldWeights(model, {name: ~mask for name, mask in trained.items()})
        hooks = ExitStack()
        hooks.enter_context(gradients_masked(model, trained))

        def put_back() -> None:
            hooks.close()
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

        def end() -> None:
            held.restore()
            put_back()

        return Guard(
            model=model,
            after_step=held.restore,
            after_training=end,
            undo=put_back,
            measure=held.measure,
        )
