"""No protection: all weights are trained."""

import dataclasses

from transformers import PreTrainedModel

from safetypin.artifacts import UserError
from safetypin.intervene.protect._protection import Guard, Protection


@dataclasses.dataclass(frozen=True)
class Full(Protection):
    """Full fine-tuning: every weight that requires a gradient is trained."""

    def check(self, model: PreTrainedModel) -> None:
        """Raise unless there is something to train."""
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(
                "no weight of the model requires a gradient, so nothing would be trained; "
                "call model.requires_grad_(True) first"
            )

    def begin(self, model: PreTrainedModel) -> Guard:
        """Return the model as it is."""
        return Guard(model=model, needs_whole=False)
