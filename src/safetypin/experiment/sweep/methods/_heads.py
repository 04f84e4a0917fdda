"""Methods that silence attention heads."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator
from transformers import PreTrainedModel

from safetypin.artifacts import NeuronSet, UserError
from safetypin.experiment.sweep._cells import Removed
from safetypin.experiment.sweep._prepared import Prepared
from safetypin.experiment.sweep.methods._method import Method, Removal
from safetypin.intervene import heads_ablated
from safetypin.models import head_sites
from safetypin.select import random_heads, top_heads
from safetypin.stages import one_or_many


class Heads(Method):
    """The attention heads whose probes tell harmful prompts from harmless ones best.

    Attributes:
        heads: How many heads of the model are silenced.
    """

    GRID: ClassVar[frozenset[str]] = frozenset({"heads"})

    kind: Literal["heads"]
    heads: tuple[int, ...] = Field(min_length=1)

    _many = field_validator("heads", mode="before")(one_or_many)

    @property
    def sizes(self) -> list[str]:
        return [str(count) for count in self.heads]

    @property
    def needs_heads(self) -> bool:
        return True

    def check(self, model: PreTrainedModel, targets: tuple[str, ...] | None) -> None:
        total = sum(site.num_heads for site in head_sites(model).values())
        for count in self.heads:
            if not 0 < count <= total:
                raise UserError(f"the model has {total} heads, {count} are to be silenced")

    def _set(self, prepared: Prepared, size: str) -> NeuronSet:
        return top_heads(prepared.head_scores, int(size), seed=prepared.seed)

    def change(self, prepared: Prepared, size: str, cell: str) -> Removal:
        return _without(prepared, self._set(prepared, size))

    def control(self, prepared: Prepared, size: str, cell: str, seed: int, match: str) -> Removal:
        return _without(prepared, random_heads(self._set(prepared, size), seed=seed))


def _without(prepared: Prepared, heads: NeuronSet) -> Removal:
    removed = Removed(unit="heads", count=heads.num_selected, total=heads.num_units)
    return Removal(heads_ablated(prepared.model, heads), removed)
