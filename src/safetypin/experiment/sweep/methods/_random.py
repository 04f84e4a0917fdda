"""Random controls of any other method."""

from typing import ClassVar, Literal

from pydantic import Field

from safetypin.experiment.sweep.methods._method import Method


class Random(Method):
    """A control: as much as another method removes in each place, drawn at random.

    Attributes:
        like: Name of the method.
        match: What a drawn weight must share with one of the set: its matrix (`count`), or its
            matrix and size (`magnitude`).
        num_seeds: How many are drawn at each size.
        only: The sizes that are drawn; all where empty.
    """

    GRID: ClassVar[frozenset[str]] = frozenset({"num_seeds", "only"})

    kind: Literal["random"]
    like: str
    match: Literal["count", "magnitude"] = "count"
    num_seeds: int = Field(default=3, ge=1)
    only: tuple[str, ...] = ()
