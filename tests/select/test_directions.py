"""Whole directions: the top and the bottom ones, by hand."""

import pytest
import torch

from safetypin.artifacts import UserError, WeightScores
from safetypin.select import bottom_directions, top_directions


def scores(*rows, transposed=frozenset()):
    tensor = torch.tensor(rows)
    return WeightScores(
        tensors={"a": tensor}, method="m", model_id="m#1", space="b", transposed=transposed
    )


def chosen(mask, dim):
    members = mask.tensors["a"]
    assert (members.all(dim=dim) == members.any(dim=dim)).all()  # whole directions
    return members.any(dim=dim).nonzero().flatten().tolist()


def test_the_norm_over_the_outputs_orders_the_directions():
    # norms 5, 1, 2, 3.6: the largest coefficient of all is not in the largest direction
    found = scores([3.0, 1.0, 2.0, 3.6], [4.0, 0.0, 0.0, 0.0])
    assert chosen(top_directions(found, 0.5), 0) == [0, 3]
    assert chosen(bottom_directions(found, 0.5), 0) == [1, 2]


def test_a_transposed_matrix_has_its_directions_in_rows():
    found = scores([3.0, 4.0], [1.0, 0.0], [2.0, 0.0], [3.6, 0.0], transposed=frozenset({"a"}))
    assert chosen(top_directions(found, 0.25), 1) == [0]
    assert chosen(bottom_directions(found, 0.25), 1) == [1]


def test_ties_go_to_the_lower_index_and_shares_are_rounded():
    found = scores([1.0, 1.0, 1.0, 1.0, 1.0])
    assert chosen(top_directions(found, 0.5), 0) == [0, 1]
    assert chosen(bottom_directions(found, 0.3), 0) == [0, 1]
    assert chosen(top_directions(found, 0), 0) == []
    with pytest.raises(UserError, match=r"must be in \[0, 1\], got 1.5"):
        top_directions(found, 1.5)
