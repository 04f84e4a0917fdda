"""What a sweep can remove. A new kind is a file beside these and a line in KINDS.

Each kind says its sizes, what has to be made before, and how a cell changes the model; a change
is a context manager that puts everything back.
"""

from collections.abc import Mapping
from typing import Any

from safetypin.artifacts import UserError
from safetypin.experiment.sweep.methods._heads import Heads
from safetypin.experiment.sweep.methods._method import Method
from safetypin.experiment.sweep.methods._random import Random
from safetypin.experiment.sweep.methods._ranks import Projection, Ranks
from safetypin.experiment.sweep.methods._weights import Difference, Pattern, Share

KINDS: dict[str, type[Method]] = {
    "difference": Difference,
    "heads": Heads,
    "pattern": Pattern,
    "projection": Projection,
    "random": Random,
    "ranks": Ranks,
    "share": Share,
}


def read_method(name: str, table: Mapping[str, Any]) -> Method:
    """Return a checked method of a file.

    Raises:
        UserError: Its kind is unknown, or a value is wrong.
        pydantic.ValidationError: A key is unknown, or a value is of a wrong type.
    """
    kind = table.get("kind")
    if kind not in KINDS:
        raise UserError(f"[methods.{name}] has the kind {kind!r}; choose one of {', '.join(KINDS)}")
    return KINDS[kind](**table)


__all__ = ["KINDS", "Difference", "Method", "Projection", "Random", "read_method"]
