"""Sets of units by rank, random sets of the same sizes, and where they are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safetypin.artifacts import NeuronScores, NeuronSet, UserError
from safetypin.select import layer_shares, random_neurons, sparsity_curve, top_neurons


def scores_of(*rows):
    tensors = {f"model.layers.{i}.mlp": torch.tensor(row) for i, row in enumerate(rows)}
    return NeuronScores(tensors=tensors, site="residual", method="contrast-plain", model_id="m#1")


def members_of(found):
    return [tensor.nonzero()[:, 0].tolist() for tensor in found.tensors.values()]


def test_the_top_is_taken_over_the_whole_model_or_in_each_layer():
    scores = scores_of([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0])
    assert members_of(top_neurons(scores, 0.5)) == [[], [0, 1, 2, 3]]
    assert members_of(top_neurons(scores, 0.5, group="layer")) == [[2, 3], [2, 3]]
    assert top_neurons(scores, 0.5).site == "residual"


def test_ties_go_to_the_earlier_layer_and_the_lower_index():
    scores = scores_of([1.0] * 5, [1.0] * 5)
    assert members_of(top_neurons(scores, 0.7)) == [[0, 1, 2, 3, 4], [0, 1]]


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (0.05, 1), (0.29, 6), (1.0, 20)])
def test_the_size_is_exact(fraction, count):
    scores = scores_of(torch.rand(10).add(0.1).tolist(), torch.rand(10).add(0.1).tolist())
    assert top_neurons(scores, fraction).num_selected == count


def test_a_wrong_share_or_group_is_an_error():
    with pytest.raises(UserError, match="fraction must be in"):
        top_neurons(scores_of([1.0]), 5)
    with pytest.raises(UserError, match="group must be one of model, layer, got 'row'"):
        top_neurons(scores_of([1.0]), 0.5, group="row")
    with pytest.raises(UserError, match="1 NaN of 2"):
        top_neurons(scores_of([1.0, float("nan")]), 0.5)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(0, 3))
def test_a_random_set_has_as_many_units_in_every_layer(sizes, seed):
    tensors = {f"model.layers.{i}.mlp": torch.arange(12) < size for i, size in enumerate(sizes)}
    neurons = NeuronSet(tensors=tensors, model_id="m#1")
    control = random_neurons(neurons, seed=seed)
    for name, members in tensors.items():
        drawn = control.tensors[name]
        assert drawn.sum() == members.sum()
        assert (drawn & members).sum() == max(0, 2 * int(members.sum()) - 12)


def test_random_sets_depend_on_the_seed_alone():
    neurons = top_neurons(scores_of(list(map(float, range(200)))), 0.1)
    first, again, other = (random_neurons(neurons, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_the_share_of_every_layer_counts_its_members():
    found = layer_shares(top_neurons(scores_of([1.0, 9.0], [2.0, 8.0, 7.0, 1.0]), 0.5))
    assert [tuple(row) for row in found] == [(0, 1, 2), (1, 2, 4)]


def test_one_unit_that_holds_everything_is_a_step_and_equal_units_the_diagonal():
    spike = sparsity_curve(scores_of([0.0, 0.0, 5.0, 0.0]))
    assert spike[0] == (0.25, 1.0)
    flat = sparsity_curve(scores_of([2.0] * 10))
    for point in flat:
        assert point.energy == pytest.approx(point.fraction)
    assert flat[-1].fraction == 1.0
