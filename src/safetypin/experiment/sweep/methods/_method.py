"""What every kind of method says of itself."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel

from safetypin.artifacts import WeightMask, WeightScores
from safetypin.experiment.sweep._cells import Removed
from safetypin.experiment.sweep._prepared import Prepared

Change = AbstractContextManager[PreTrainedModel]
Scores = Mapping[str, WeightScores]  # by the prompts they are on: safety, utility


class Removal(NamedTuple):
    """A change of the model, and how much it takes out: counted from what the change is made of."""

    change: Change
    removed: Removed


class Method(BaseModel):
    """A method as the file says it.

    Attributes:
        GRID: The fields that say which cells there are, not what one of them does.
        about: What it is, in one line.
    """

    GRID: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", frozen=True)
    about: str = ""

    @property
    def sizes(self) -> list[str]:
        """Names of its sizes, in the order of the file."""
        raise NotImplementedError

    @property
    def inputs(self) -> dict[str, Any]:
        """What a cell depends on beside its own size and seed: a new size redoes no other."""
        return self.model_dump(exclude={"about", *self.GRID})

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

    def check_prepared(self, prepared: Prepared) -> None:
        """Raise before the first cell if a size does not fit what was made.

        Raises:
            UserError: It does not.
        """

    def cut(self, scores: Scores) -> dict[str, WeightMask]:
        """Return its sets by size, from scores on the safety and the utility prompts."""
        raise NotImplementedError

    def change(self, prepared: Prepared, size: str, cell: str) -> Removal:
        """Return the change of the model at a size."""
        raise NotImplementedError

    def control(self, prepared: Prepared, size: str, cell: str, seed: int, match: str) -> Removal:
        """Return a random change of the same size."""
        raise NotImplementedError
