r"""GSM8K by exact match: the last number of an answer beside the one behind `####`.

The published evaluator read `#### (\d+)`, which loses commas and signs: -1,200 became 1.
"""

import re
from collections.abc import Sequence
from decimal import Decimal

from safetypin.artifacts import UserError

# digits with or without commas between thousands, a decimal part, a sign before or behind a symbol
MINUS = "-\u2212\u2013"
NUMBER = re.compile(
    rf"[{MINUS}]?[$\u20ac\u00a3]?[{MINUS}]?(?:(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?|\.\d+)"
)
MARK = "####"  # before the result in GSM8K


def final_number(text: str) -> Decimal | None:
    """Return the result that a text gives: the number behind `####`, else its last; None without.

    Commas, currencies and trailing zeros do not count: `$1,200.00` is 1200. A minus right behind a
    number, letter or bracket takes away: `5-3` ends with 3.
    """
    _, mark, behind = text.rpartition(MARK)
    found = list(NUMBER.finditer(behind if mark else text))
    if not found:
        return None
    # GSM8K puts nothing but the result behind the mark; a model may go on
    chosen = found[0] if mark else found[-1]
    source = behind if mark else text
    return _value(chosen[0], before=source[: chosen.start()])


def _value(shown: str, *, before: str) -> Decimal:
    digits = Decimal(re.sub(r"[^\d.]", "", shown))
    # the minus of 5-3 takes away, that of "to -3" does not
    is_difference = shown[0] in MINUS and bool(re.search(r"[\w)%]$", before))
    is_negative = any(sign in shown for sign in MINUS) and not is_difference
    return -digits if is_negative else digits


def exact_matches(answers: Sequence[str], solutions: Sequence[str]) -> list[bool]:
    """Return whether each answer ends with the number of its solution.

    Raises:
        UserError: A solution holds no number.
    """
    wanted = [final_number(solution) for solution in solutions]
    if None in wanted:
        raise UserError(
            f"solution {wanted.index(None)} holds no number, so nothing can match it exactly; give "
            "problems whose responses end with their result (behind #### in GSM8K)"
        )
    return [final_number(a) == w for a, w in zip(answers, wanted, strict=True)]
