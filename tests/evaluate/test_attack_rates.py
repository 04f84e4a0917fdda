"""Mean and any-of-n are two numbers; the mean's interval counts prompts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safetypin.artifacts import Rate, Verdict, wilson_interval
from safetypin.evaluate import attack_rates

REFUSAL, COMPLIED, DEGENERATE, UNJUDGED = Verdict


def rows(verdicts=tuple(Verdict), max_prompts=8):
    return st.integers(1, 4).flatmap(
        lambda n: st.lists(
            st.lists(st.sampled_from(verdicts), min_size=n, max_size=n), max_size=max_prompts
        )
    )


def test_mean_and_any_of_n_of_four_prompts_by_hand():
    found = attack_rates(
        [
            [COMPLIED, REFUSAL, REFUSAL],
            [REFUSAL, REFUSAL, REFUSAL],
            [COMPLIED, COMPLIED, DEGENERATE],
            [REFUSAL, UNJUDGED, REFUSAL],
        ]
    )
    assert found.mean == Rate(num_hits=3, num_judged=11, num_unjudged=1)
    # one of the last prompt's answers is not known, so neither is whether any complied
    assert found.any_of_n == Rate(num_hits=2, num_judged=3, num_unjudged=1)
    assert found.num_variants == 3
    assert [rate.num_hits for rate in found.by_variant] == [2, 1, 0]
    assert [rate.num_judged for rate in found.by_variant] == [4, 3, 4]
    assert found.degenerate == Rate(num_hits=1, num_judged=11, num_unjudged=1)


def test_the_two_numbers_of_the_papers_own_answers_are_far_apart():
    """0.264 of 500 answers and 0.65 of 100 prompts, as the authors' files hold them."""
    counts = [1] * 25 + [2] * 20 + [3] * 14 + [4] * 4 + [4, 5] + [0] * 35
    assert sum(counts) == 132
    found = attack_rates([[COMPLIED] * n + [REFUSAL] * (5 - n) for n in counts])
    assert (found.mean.value, found.any_of_n.value) == (0.264, 0.65)


def test_answers_that_are_all_alike_count_once():
    alike = attack_rates([[COMPLIED] * 5, [REFUSAL] * 5] * 10)
    low, high = alike.mean_interval
    assert (low, high) == pytest.approx(wilson_interval(10, 20))
    assert alike.mean.interval[0] > low
    assert alike.mean.interval[1] < high


def test_answers_that_do_not_depend_on_the_prompt_count_all():
    even = attack_rates([[COMPLIED, REFUSAL]] * 10)
    assert even.mean_interval == wilson_interval(10, 20)


@pytest.mark.parametrize("verdict", [COMPLIED, REFUSAL])
def test_where_nothing_scatters_only_the_prompts_are_independent(verdict):
    found = attack_rates([[verdict] * 5] * 12)
    assert found.mean_interval == wilson_interval(12 if verdict is COMPLIED else 0, 12)


def test_nothing_judged_has_no_rate():
    for verdicts in ([], [[UNJUDGED, UNJUDGED]]):
        found = attack_rates(verdicts)
        assert found.mean.value is found.mean_interval is found.any_of_n.value is None


def test_every_prompt_needs_as_many_answers():
    with pytest.raises(ValueError, match=r"different numbers of answers: \[1, 2\]"):
        attack_rates([[COMPLIED], [COMPLIED, REFUSAL]])


@given(rows())
def test_the_mean_lies_in_its_interval_and_prompts_do_not_depend_on_their_order(verdicts):
    found = attack_rates(verdicts)
    if found.mean.value is not None:
        low, high = found.mean_interval
        assert 0 <= low <= found.mean.value + 1e-12
        assert found.mean.value - 1e-12 <= high <= 1
        assert high - low >= found.mean.interval[1] - found.mean.interval[0] - 1e-9
    turned = attack_rates(verdicts[::-1])
    assert (turned.mean, turned.any_of_n) == (found.mean, found.any_of_n)


@given(rows(verdicts=(REFUSAL, COMPLIED, DEGENERATE)))
def test_some_answer_complies_at_least_as_often_as_an_answer_does(verdicts):
    found = attack_rates(verdicts)
    if verdicts:
        assert found.any_of_n.value >= found.mean.value
        assert found.any_of_n.value >= max(rate.value for rate in found.by_variant)


@given(st.lists(st.sampled_from(tuple(Verdict)), min_size=1, max_size=12))
def test_with_one_answer_the_two_are_the_ordinary_rate(verdicts):
    found = attack_rates([[verdict] for verdict in verdicts])
    assert found.mean == found.any_of_n == found.by_variant[0]
    if found.mean.interval:
        assert found.mean_interval == pytest.approx(found.mean.interval, abs=1e-12)
