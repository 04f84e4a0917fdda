"""The written rules: from numbers to answers."""

import copy

import pytest

from safetypin.stages._track_findings import (
    findings,
    hypotheses_ab,
    hypotheses_cd,
    movement,
    safety_change,
)

RATE = {"num_hits": 4, "num_judged": 48}


def drift(value, expected, p):
    return {
        "step": 10, "group": "critical", "measure": "rms_units", "value": value,
        "expected": expected, "low": 0.9, "high": 1.1, "ratio": value and value / expected,
        "num_weights": 100, "num_trainable": 100 if value else 0, "p_corrected": p,
    }  # fmt: skip


def dynamics(model, group, against):
    return {
        "model": model, "score": "safety", "group": group, "num_weights": 100, "drop": 0.2,
        "drop_interval": [0.1, 0.3], "against_matched": against,
    }  # fmt: skip


def fall(value, low, high):
    return {"value": value, "interval": [low, high]}


@pytest.fixture
def metrics():
    """Numbers of a training that cost safety and moved the set more than others."""
    overlap = {
        "group": "critical", "num_before": 100, "num_after": 90, "num_both": 30, "share": 0.3,
        "jaccard": 0.19, "chance_share": 0.01, "noise_share": 0.6, "noise_jaccard": 0.43,
        "control_share": None,
    }  # fmt: skip
    return {
        "checkpoints": [{"step": 5}, {"step": 10}],
        "outcome": {
            "before": {"asr": RATE, "destroyed": None},
            "after": {"asr": RATE | {"num_hits": 21}, "destroyed": None},
            "paired": {"asr": {"value": 0.35, "interval": [0.2, 0.5]}},
        },
        "drift": {"rows": [drift(1.3, 1.0, 0.01)]},
        "dynamics": {
            "rows": [
                dynamics("tuned", "critical", fall(0.4, 0.3, 0.5)),
                dynamics("tuned", "matched", None),
                dynamics("noise", "critical", fall(0.1, 0.05, 0.15)),
            ]
        },
        "overlap": {"rows": [overlap]},
    }


def asr(metrics, low, high):
    metrics["outcome"]["paired"]["asr"]["interval"] = [low, high]
    return metrics


def moved(metrics, value, expected, p):
    metrics["drift"]["rows"] = [drift(value, expected, p)]
    return metrics


def held(metrics, value, low, high, noise=0.1):
    moved(metrics, None, None, None)
    metrics["dynamics"]["rows"][0]["against_matched"] = fall(value, low, high)
    metrics["dynamics"]["rows"][2]["against_matched"] = fall(noise, noise, noise)
    return hypotheses_ab(metrics)["answer"]


@pytest.mark.parametrize(
    ("interval", "answer"),
    [((0.01, 0.4), "fell"), ((-0.4, -0.01), "rose"), ((0.0, 0.4), "no fall shown")],
)
def test_safety_fell_or_rose_where_the_interval_leaves_zero_out(metrics, interval, answer):
    assert safety_change(asr(metrics, *interval)) == answer


def test_of_a_destroyed_or_unjudged_model_no_fall_is_claimed(metrics):
    metrics["outcome"]["paired"]["asr"] = None
    assert safety_change(metrics) == "not measured"
    metrics["outcome"]["after"]["destroyed"] = "it repeats one word"
    assert safety_change(metrics) == "destroyed"
    assert "it repeats one word" in findings(metrics)[0]["sentence"]


@pytest.mark.parametrize(
    ("value", "p", "answer"),
    [
        (1.3, 0.01, "more"),
        (0.8, 0.01, "less"),
        (1.05, 0.01, "no difference shown"),  # sure, and too small to matter
        (0.95, 0.01, "no difference shown"),
        (1.3, 0.05, "no difference shown"),
        (1.3, None, "no difference shown"),
        (None, None, "not trainable"),
    ],
)
def test_the_set_moved_more_or_less_where_the_test_says_so(metrics, value, p, answer):
    assert movement(moved(metrics, value, 1.0, p)) == answer


@pytest.mark.parametrize(
    ("fell", "answer"),
    [
        ((0.4, 0.11, 0.5), "A supported"),
        ((0.4, 0.09, 0.5), "undecided"),  # the interval reaches the limit
        ((0.0, -0.05, 0.09), "B supported"),
        ((0.0, -0.11, 0.05), "undecided"),
        ((-0.5, -0.6, -0.4), "undecided"),  # they rose
    ],
)
def test_a_and_b_follow_the_interval_of_the_relative_fall(metrics, fell, answer):
    assert held(metrics, *fell) == answer


def test_a_and_b_explain_a_loss_of_safety_only(metrics):
    assert held(asr(metrics, -0.1, 0.2), 0.4, 0.3, 0.5) == "undecided"
    assert "no loss of safety" in hypotheses_ab(metrics)["sentence"]


def test_a_is_not_supported_by_a_fall_that_other_prompts_make_too(metrics):
    assert held(metrics, 0.4, 0.3, 0.5, noise=0.35) == "undecided"


def test_a_and_b_are_asked_of_a_held_set_only(metrics):
    assert hypotheses_ab(metrics)["answer"] == "not asked"
    assert hypotheses_cd(moved(metrics, None, None, None))["answer"] == "not asked"


def test_without_scores_a_and_b_are_undecided(metrics):
    moved(metrics, None, None, None)
    metrics["dynamics"] = None
    assert hypotheses_ab(metrics)["answer"] == "undecided"


def test_c_needs_more_movement_and_a_loss_of_safety(metrics):
    assert hypotheses_cd(metrics)["answer"] == "C supported"
    assert hypotheses_cd(asr(metrics, -0.1, 0.3))["answer"] == "undecided"


def test_d_needs_less_movement_and_another_set(metrics):
    moved(metrics, 0.8, 1.0, 0.01)
    assert hypotheses_cd(metrics)["answer"] == "D supported"
    metrics["overlap"]["rows"][0]["jaccard"] = 0.5
    assert hypotheses_cd(metrics)["answer"] == "C not supported"
    metrics["overlap"] = None
    assert hypotheses_cd(metrics)["answer"] == "C not supported"


def test_no_difference_of_movement_decides_nothing(metrics):
    assert hypotheses_cd(moved(metrics, 1.0, 1.0, 0.8))["answer"] == "undecided"


def test_every_finding_has_question_answer_sentence_and_rule(metrics):
    found = findings(metrics)
    assert len(found) == 6
    for one in found:
        assert set(one) == {"question", "answer", "sentence", "rule"}
        assert all(one.values())
        assert one["sentence"].endswith(".")


def test_the_sentences_carry_their_numbers(metrics):
    texts = [one["sentence"] for one in findings(metrics)]
    assert "4 of 48" in texts[0]
    assert "+35 points (95 % interval +20 to +50" in texts[0]
    assert "1.30 times what is expected" in texts[1]
    assert "0.90 to 1.10 times; p = 0.01)" in texts[1]
    assert "changed by -40 % (-50 % to -30 %" in texts[2]
    assert "Of 100 weights 30 are in the set" in texts[3]
    assert "chance gives 1 %, two halves of the prompts without any training 60 %" in texts[3]


def test_a_control_run_stands_in_the_sentence_on_overlap(metrics):
    metrics["overlap"]["rows"][0]["control_share"] = 0.25
    assert "after the control run 25 %" in findings(metrics)[3]["sentence"]


def test_a_part_that_could_not_change_is_said(metrics):
    metrics["drift"]["rows"][0]["num_trainable"] = 25
    assert "75% of it could not change" in findings(metrics)[1]["sentence"]


def test_without_scores_there_is_nothing_on_scores_and_overlap(metrics):
    bare = copy.deepcopy(metrics) | {"dynamics": None, "overlap": None}
    assert len(findings(bare)) == 4


def test_scores_of_nothing_are_no_change(metrics):
    row = metrics["dynamics"]["rows"][0]
    row |= {"drop": None, "drop_interval": None, "against_matched": None}
    found = findings(metrics)[2]
    assert found["answer"] == "not measured"
    assert found["sentence"] == "All its scores were 0 before the training."
