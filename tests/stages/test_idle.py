"""Which options of audit, score and select do nothing beside the others."""

import pytest

from safetypin.artifacts import UserError
from safetypin.scores import SCORERS
from safetypin.stages import (
    idle_audit_options,
    idle_score_options,
    idle_select_options,
    refuse_idle,
)

# method: the options of `score` that it never reads
UNREAD = {
    "magnitude": {"counted", "reduction", "batch_size"},
    "magnitude-difference": {"counted", "reduction", "batch_size"},
    "random": {"counted", "reduction", "batch_size"},
    "snip": {"counted"},
    "sparsegpt": {"reduction"},
    "wanda": {"reduction"},
}


def names_of(idle):
    return {name for rule in idle for name in rule.names}


@pytest.mark.parametrize("method", SCORERS)
def test_a_method_reads_what_its_maths_takes(method):
    assert names_of(idle_score_options(method)) - {"score_batch_size"} == UNREAD[method]


@pytest.mark.parametrize(
    ("controls", "unread"),
    [
        (("random", "matched", "top_utility"), set()),
        (("random",), {"num_matched"}),
        (("matched", "top_safety"), {"num_random"}),
        ((), {"num_random", "num_matched"}),
    ],
)
def test_an_audit_draws_as_many_sets_as_asked_of_its_controls_alone(controls, unread):
    assert names_of(idle_audit_options("snip", controls)) == {"counted"} | unread


def test_an_audits_batch_of_answers_is_read_whatever_the_method():
    unread = names_of(idle_audit_options("magnitude", ("random", "matched")))
    assert unread == {"counted", "reduction", "score_batch_size"}


@pytest.mark.parametrize(
    ("control", "subtracts", "unread"),
    [
        (None, False, {"p", "seed", "model"}),
        (None, True, {"seed", "model"}),
        ("top_utility", True, {"seed", "model"}),
        ("top_utility", False, {"seed", "model"}),
        ("random", True, set()),
        ("matched", False, {"p"}),
    ],
)
def test_select_draws_for_random_controls_and_subtracts_utility_scores(control, subtracts, unread):
    assert names_of(idle_select_options(control, subtracts=subtracts)) == unread


def test_an_unknown_control_is_refused_before_what_would_stand_beside_it():
    with pytest.raises(UserError, match="control 'randm' is unknown"):
        idle_select_options("randm", subtracts=True)


def test_what_nobody_gave_is_not_refused():
    given = {"p": None, "seed": None, "model": None}
    refuse_idle(given, idle_select_options(None, subtracts=False))
    with pytest.raises(UserError, match="--seed would do nothing: only --control random and"):
        refuse_idle(given | {"seed": 0}, idle_select_options(None, subtracts=False))
