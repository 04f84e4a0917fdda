import json
from decimal import Decimal
from pathlib import Path

import pytest

from safetypin.artifacts import UserError
from safetypin.evaluate import exact_matches, final_number

GIVEN = Path(__file__).parents[3] / "shared" / "data" / "gsm8k_test.jsonl"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = 7 apples.\n#### 7", "7"),
        ("#### 1,200", "1200"),
        ("#### -1,200", "-1200"),
        ("#### \u22125", "-5"),
        ("#### $1,234,567.50", "1234567.50"),
        ("#### -$40", "-40"),
        ("#### $-40", "-40"),
        ("#### 18 dollars, not 20", "18"),
        ("The answer is 2,000.", "2000"),
        ("The temperature falls to -3 degrees", "-3"),
        ("It is 5-3", "3"),
        ("so x = 10 - 4 and that leaves 6 of 60%", "60"),
        ("10 - 4", "4"),
        ("in 1,2 and 3", "3"),
        ("half of it, .5", "0.5"),
        ("3.0", "3"),
        ("#### 70000", "70000"),
    ],
)
def test_the_result_of_a_solution(text, number):
    assert final_number(text) == Decimal(number)


def test_no_number_is_none_and_matches_nothing():
    assert final_number("I cannot say") is None
    assert exact_matches(["I cannot say", "so 7.00", "-7"], ["#### 7"] * 3) == [False, True, False]


def test_a_solution_without_a_number_is_an_error():
    with pytest.raises(UserError, match="solution 1 holds no number"):
        exact_matches(["1", "2"], ["#### 1", "none"])


@pytest.mark.skipif(not GIVEN.exists(), reason="the real problems are not part of the project")
def test_every_real_solution_has_its_result_and_matches_itself():
    rows = [json.loads(line) for line in GIVEN.read_text().splitlines()]
    answers = [row.get("answer") or row.get("response") for row in rows]
    assert all(exact_matches(answers, answers))
    for answer in answers:
        plain = answer.rpartition("####")[2].strip().replace(",", "")
        assert final_number(answer) == Decimal(plain)
