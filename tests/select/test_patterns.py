import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import CONFIGS, build
from safetypin.artifacts import ArtifactMismatchError, UserError, WeightScores
from safetypin.models import block_weights
from safetypin.scores import magnitude
from safetypin.select import (
    bottom_fraction,
    bottom_n_of_m,
    parse_pattern,
    safest_to_remove,
    top_fraction,
    top_n_of_m,
)

UP = "model.layers.0.mlp.up_proj.weight"


def scores_of(rows, **about):
    return WeightScores(tensors={UP: torch.tensor(rows)}, method="wanda", model_id="m#1", **about)


def test_the_highest_of_every_few_inputs_of_a_row():
    scores = scores_of([[1.0, 4.0, 3.0, 2.0, 9.0, 8.0, 9.0, 7.0]])
    assert top_n_of_m(scores, 2, 4).tensors[UP].int().tolist() == [[0, 1, 1, 0, 1, 0, 1, 0]]
    assert bottom_n_of_m(scores, 1, 4).tensors[UP].int().tolist() == [[1, 0, 0, 0, 0, 0, 0, 1]]


def test_ties_go_to_the_lower_index_and_zeros_to_nobody():
    scores = scores_of([[5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
    assert top_n_of_m(scores, 2, 4).tensors[UP].int().tolist() == [[1, 1, 0, 0], [0, 0, 0, 1]]
    assert bottom_n_of_m(scores, 2, 4).tensors[UP].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]


def test_inputs_of_a_transposed_weight_run_down():
    rows = torch.arange(8.0).view(4, 2) + 1
    mask = top_n_of_m(scores_of(rows.tolist(), transposed=frozenset({UP})), 1, 4)
    assert mask.tensors[UP].int().tolist() == [[0, 0], [0, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize("family", CONFIGS)
def test_every_group_of_every_family_has_exactly_n(family):
    model = build(family)
    mask = top_n_of_m(magnitude(model), 2, 4)
    for name, weight in block_weights(model).items():
        members = mask.tensors[name]
        inputs = members.mT if weight.layout == "conv1d" else members
        assert set(inputs.reshape(-1, 4).sum(dim=1).tolist()) == {2}, name
    assert mask.fraction == 0.5


@given(seed=st.integers(0, 99), n=st.integers(0, 4))
def test_no_weight_outside_is_higher_than_one_inside_its_group(seed, n):
    values = torch.rand(3, 8, generator=torch.Generator().manual_seed(seed)).add(0.01)
    scores = scores_of(values.tolist())
    mask = top_n_of_m(scores, n, 4).tensors[UP].view(-1, 4)
    groups = scores.tensors[UP].view(-1, 4)
    assert mask.sum() == n * len(groups)
    for group, members in zip(groups, mask, strict=True):
        if 0 < n < 4:
            assert group[members].min() >= group[~members].max()
    rest = bottom_n_of_m(scores, 4 - n, 4).tensors[UP].view(-1, 4)
    assert torch.equal(rest, ~mask)


def test_a_pattern_that_does_not_divide_is_an_error_that_names_the_matrix():
    with pytest.raises(UserError, match=r"up_proj\.weight has 6 inputs, which 4 does not divide"):
        top_n_of_m(scores_of([[1.0] * 6]), 2, 4)


def test_senseless_patterns_are_errors():
    for n, m in ((5, 4), (-1, 4), (0, 0)):
        with pytest.raises(UserError, match=f"0 <= n <= m and m >= 1; got {n}:{m}"):
            top_n_of_m(scores_of([[1.0] * 4]), n, m)
    assert parse_pattern(" 2:4 ") == (2, 4)
    for text in ("2/4", "2:", "a:b", ""):
        with pytest.raises(UserError, match=r"is not of the form N:M; write 2:4"):
            parse_pattern(text)


def test_the_safest_to_remove_are_the_lowest_that_are_not_useful():
    safety = scores_of([[1.0, 2.0, 3.0, 4.0]])
    utility = scores_of([[9.0, 1.0, 1.0, 1.0]])
    chosen = safest_to_remove(safety, utility, q=0.5, p=0.25)
    assert chosen.tensors[UP].int().tolist() == [[0, 1, 0, 0]]
    alone = safest_to_remove(safety, q=0.5)
    assert alone.fingerprint == bottom_fraction(safety, 0.5).fingerprint
    assert (alone & top_fraction(safety, 0.5)).num_selected == 0


def test_scores_of_two_models_never_meet():
    other = WeightScores(tensors={UP: torch.ones(1, 4)}, method="wanda", model_id="m#2")
    with pytest.raises(ArtifactMismatchError, match="of two models"):
        safest_to_remove(scores_of([[1.0, 2.0, 3.0, 4.0]]), other, q=0.5, p=0.25)
