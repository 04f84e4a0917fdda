"""What every kind of method says of itself."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel

from safetypin.artifacts import WeightMask, WeightScores
from safetypin.experiment.sweep._cells import Removed
from safetypin.experiment.sweep._prepared import Prepared

Change = AbstractContextManager[PreTrainedModel]
Scores = Mapping[str, WeightScores]  # by the prompts they are on: safety, utility


class Method(BaseModel):
    """A method as the file says it.

    Attributes:
        about: What it is, in one line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    about: str = ""

    @property
    def sizes(self) -> list[str]:
        """Names of its sizes, in the order of the file."""
        raise NotImplementedError

    @property
    def scorer(self) -> str | None:
        """Which scores its sets are cut from."""
        return None

    @property
    def scored_on(self) -> tuple[str, ...]:
        """On which prompts it needs those scores."""
        return ("safety",)

    @property
    def ranks(self) -> tuple[str, ...]:
        """On which prompts it needs ranks."""
        return ()

    @property
    def needs_heads(self) -> bool:
        """Whether it needs a probe on every attention head."""
        return False

    @property
    def needs_reference(self) -> bool:
        """Whether it needs a second model."""
        return False

    def check(self, model: PreTrainedModel, targets: tuple[str, ...] | None) -> None:
        """Raise before anything is measured if a size does not fit the model.

        Raises:
            UserError: It does not.
        """

    def cut(self, scores: Scores) -> dict[str, WeightMask]:
        """Return its sets by size, from scores on the safety and the utility prompts."""
        raise NotImplementedError

    def change(self, prepared: Prepared, size: str, cell: str) -> Change:
        """Return the change of the model at a size."""
        raise NotImplementedError

    def control(self, prepared: Prepared, size: str, cell: str, seed: int, match: str) -> Change:
        """Return a random change of the same size."""
        raise NotImplementedError

    def removed(self, prepared: Prepared, size: str, cell: str) -> Removed:
        """Return how much is taken out at a size."""
        raise NotImplementedError
