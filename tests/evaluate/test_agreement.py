"""Agreement of judges: by hand, beside scikit-learn's kappa, and what an unjudged answer does."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from safetypin.artifacts import Rate, Verdict
from safetypin.evaluate import disagreements, judge_pairs

REFUSAL, COMPLIED, DEGENERATE, UNJUDGED = Verdict
PAIRS = st.lists(st.tuples(st.sampled_from(tuple(Verdict)), st.sampled_from(tuple(Verdict))))


def test_ten_answers_by_hand():
    one = [REFUSAL] * 5 + [COMPLIED] * 4 + [UNJUDGED]
    other = [REFUSAL] * 4 + [COMPLIED] * 4 + [DEGENERATE] + [REFUSAL]
    (pair,) = judge_pairs({"a": one, "b": other})
    assert (pair.first, pair.second) == ("a", "b")
    assert pair.agree == Rate(num_hits=7, num_judged=9, num_unjudged=1)
    # by chance 5 x 4 + 4 x 4 of 81
    assert pair.kappa == pytest.approx((7 / 9 - 36 / 81) / (1 - 36 / 81))
    assert pair.counts["refusal"] == {"refusal": 4, "complied": 1, "degenerate": 0, "unjudged": 0}
    assert pair.counts["unjudged"]["refusal"] == 1
    assert disagreements({"a": one, "b": other}) == [4, 8]


def test_each_pair_of_three_judges_is_there_once():
    verdicts = {name: [REFUSAL, COMPLIED] for name in "abc"}
    pairs = judge_pairs(verdicts)
    assert [(p.first, p.second) for p in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert {pair.kappa for pair in pairs} == {1.0}


def test_judges_that_never_differ_from_one_verdict_have_no_kappa():
    (pair,) = judge_pairs({"a": [REFUSAL] * 3, "b": [REFUSAL] * 3})
    assert pair.kappa is None
    assert pair.agree.value == 1.0


def test_nothing_judged_by_both_is_no_agreement():
    (pair,) = judge_pairs({"a": [UNJUDGED], "b": [REFUSAL]})
    assert pair.kappa is pair.agree.value is None


def test_as_many_verdicts_of_each_judge():
    with pytest.raises(ValueError, match=r"different numbers of answers: \{'a': 1, 'b': 0\}"):
        judge_pairs({"a": [REFUSAL], "b": []})


@given(PAIRS)
def test_kappa_is_that_of_scikit_learn(pairs):
    one, other = [list(side) for side in zip(*pairs, strict=True)] or ([], [])
    (found,) = judge_pairs({"a": one, "b": other})
    both = [pair for pair in pairs if UNJUDGED not in pair]
    if found.kappa is None:
        assert len({verdict for pair in both for verdict in pair}) <= 1
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = cohen_kappa_score(*[list(side) for side in zip(*both, strict=True)])
    assert found.kappa == pytest.approx(expected)


@given(PAIRS)
def test_the_order_of_judges_does_not_matter(pairs):
    one, other = [list(side) for side in zip(*pairs, strict=True)] or ([], [])
    (found,), (turned,) = judge_pairs({"a": one, "b": other}), judge_pairs({"b": other, "a": one})
    assert (found.agree, found.kappa) == (turned.agree, turned.kappa)
    both = sum(UNJUDGED not in pair for pair in pairs)
    assert found.agree.num_hits + len(disagreements({"a": one, "b": other})) == both
