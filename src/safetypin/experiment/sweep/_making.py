"""What the stages before the first cell work with."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from safetypin.artifacts import PromptSet
from safetypin.experiment.sweep._file import Sweep
from safetypin.experiment.sweep.methods import Method, Random
from safetypin.models import model_id
from safetypin.stages import Series, Subject


@dataclasses.dataclass(frozen=True, kw_only=True)
class Making:
    """What is asked for, and what it is made with.

    Attributes:
        sweep: What is asked for.
        series: Runs the stages.
        subject: The model.
        reference: The second model, where there is one.
        prompts: Safety and utility prompts with the model's own answers.
    """

    sweep: Sweep
    series: Series
    subject: Subject
    reference: Any
    prompts: Mapping[str, PromptSet]

    @property
    def methods(self) -> dict[str, Method]:
        """The methods that are no controls, by name."""
        return {
            name: method
            for name, method in self.sweep.methods.items()
            if not isinstance(method, Random)
        }

    @property
    def reference_id(self) -> str | None:
        """Its `model_id`: its name may come to mean another model."""
        return None if self.reference is None else model_id(self.reference)
