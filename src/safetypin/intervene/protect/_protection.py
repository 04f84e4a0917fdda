"""What a fine-tuning run may change: the form that every protection has."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from peft import PeftModel
from torch.optim import Optimizer
from transformers import PreTrainedModel

from safetypin.artifacts import UserError, WeightMask
from safetypin.intervene._prune import check_mask


def nothing() -> None:
    """Do nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guard:
    """A model that is ready to be trained under a protection.

    Attributes:
        model: What is trained: the model itself, or a PEFT model over it.
        after_step: To be called after every optimizer step, and after a checkpoint is loaded.
        after_training: To be called at the end.
        undo: Takes back what was put around the model, where the training fails.
        make_optimizer: Makes the optimizer in place of the Trainer, from its class, its name, the
            names of the parameters that weight decay is for, the decay, and its options.
        measure: What was measured of the protection once the training is over, as JSON values.
        needs_whole: Whether every process must have each weight as a whole.
        notes: What the user should know of the protection, in sentences.
    """

    model: PreTrainedModel | PeftModel
    after_step: Callable[[], None] = nothing
    after_training: Callable[[], None] = nothing
    undo: Callable[[], object] = nothing
    make_optimizer: Callable[..., Optimizer] | None = None
    measure: Callable[[], Mapping[str, Any]] | None = None
    needs_whole: bool = True
    notes: tuple[str, ...] = ()


class Protection(abc.ABC):
    """What a fine-tuning run may change; a new one is a file beside this one.

    Attributes:
        learning_rate: Used where none is asked for.
        trains_weights: Whether the model's own weights are trained, not adapters beside them.
    """

    learning_rate: ClassVar[float] = 2e-5
    trains_weights: ClassVar[bool] = True

    @property
    def settings(self) -> Mapping[str, Any]:
        """What tells this protection from another: JSON values."""
        return {"protect": type(self).__name__}

    @abc.abstractmethod
    def check(self, model: PreTrainedModel) -> None:
        """Raise, before anything is changed, unless the model can be trained in this way.

        Raises:
            UserError: It cannot, with the reason.
        """

    @abc.abstractmethod
    def begin(self, model: PreTrainedModel) -> Guard:
        """Make the model ready; it was checked, and its weights have their first values."""


def check_trainable(model: PreTrainedModel, mask: WeightMask) -> None:
    """Raise unless the mask has members and the run trains every weight that has one.

    Raises:
        ArtifactMismatchError: The mask is of another model or in other coordinates.
        UserError: It is empty, or names weights that are not trained.
    """
    check_mask(model, mask)
    chosen = [name for name, members in mask.tensors.items() if members.any()]
    if not chosen:
        raise UserError(
            "the mask has no member, so there is nothing to protect; take another set, or train "
            "without one (--protect none)"
        )
    stuck = [name for name in chosen if not model.get_parameter(name).requires_grad]
    if stuck:
        raise UserError(
            f"the mask names {len(stuck)} matrices that this run cannot train (requires_grad is "
            f"off), first {stuck[0]!r}; leave them out of the mask, or let them be trained with "
            "requires_grad_(True)"
        )
