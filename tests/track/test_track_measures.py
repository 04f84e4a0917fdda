import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.tracking import cosine, lora_change
from safetypin.artifacts import UserError
from safetypin.track import _measure
from safetypin.track._margins import Adder
from safetypin.track._measure import measure_members, measure_whole, row_turns
from safetypin.track._sources import Dense, LowRank, Masked


def distance_of(before, change):
    (distance,) = row_turns(before, change).distance
    return distance


def places(mask):
    rows, columns = mask.nonzero(as_tuple=True)
    return rows, columns


def test_the_sums_of_a_worked_example():
    weight = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    change = Dense(torch.tensor([[[4.0, -3.0], [0.0, 0.5]]]))
    whole = measure_whole(weight, change, 0, None, "w")
    # (9 + 16 + 25) / 4
    assert whole.rms == pytest.approx(math.sqrt(12.5))
    # (3, 4) turns to (7, 1): cos = 25 / (5 sqrt(50)); (0, 5) to (0, 5.5) does not turn
    assert whole.distances == pytest.approx([1 - 1 / math.sqrt(2), 0.0])
    members = places(torch.tensor([[True, False], [False, True]]))
    sums = measure_members(weight, change, 0, members, None, whole)
    assert (sums.num_weights, sums.num_trainable) == (2, 2)
    assert sums.totals["rms_units"] == pytest.approx(4.5 / math.sqrt(12.5))
    assert sums.totals["norm_ratio"] == pytest.approx(16.25)
    assert sums.weight_square == 9 + 25
    assert sums.totals["row_cosine"] == pytest.approx(1 - 1 / math.sqrt(2))
    assert sums.totals["relative_change"] == pytest.approx(4 / 3 + 0.5 / 5)
    assert sums.totals["changed_share"] == 2


def test_the_relative_change_of_a_tiny_weight_is_0_as_in_the_papers_code():
    weight = torch.tensor([[1e-9, 2.0]])
    change = Dense(torch.tensor([[[1.0, 1.0]]]))
    whole = measure_whole(weight, change, 0, None, "w")
    sums = measure_members(weight, change, 0, places(torch.ones(1, 2, dtype=bool)), None, whole)
    assert sums.totals["relative_change"] == 0.5
    assert sums.expected["relative_change"] == 0.5


def test_closed_entries_count_neither_as_members_nor_in_the_mean():
    weight = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    change = Dense(torch.tensor([[[2.0, 0.0], [4.0, 0.0]]]))
    closed = torch.tensor([[False, True], [False, True]])
    whole = measure_whole(weight, change, 0, closed, "w")
    assert whole.margins["rms_units"].mean == pytest.approx(3.0)
    assert whole.changed == 1.0
    # a closed entry counts as the mean, so the columns do not differ
    assert whole.margins["rms_units"].columns == pytest.approx([0.0, 0.0])
    members = places(torch.ones(2, 2, dtype=torch.bool))
    sums = measure_members(weight, change, 0, members, closed, whole)
    assert (sums.num_weights, sums.num_trainable) == (4, 2)
    assert sums.totals["rms_units"] == pytest.approx(6.0)


@pytest.mark.parametrize(
    ("before", "change", "distance"),
    [
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [1.0, 0.0], 1.0),
        ([1.0, 2.0], [-1.0, -2.0], 1.0),
        ([1.0, 2.0], [-2.0, -4.0], 2.0),
        ([1.0, 0.0], [-1.0, 1.0], 1.0),
        ([1.0, 2.0], [0.0, 0.0], 0.0),
        ([1.0, 2.0], [2.0, 4.0], 0.0),
    ],
)
def test_a_row_turns_by_what_its_cosine_says_also_where_it_is_all_zeros(before, change, distance):
    found = distance_of(torch.tensor([before]), torch.tensor([change]))
    assert float(found) == pytest.approx(distance, abs=1e-12)


def test_a_turn_too_small_for_the_cosine_itself_is_still_measured():
    before = torch.tensor([[1.0, 0.0]])
    change = torch.tensor([[0.0, 1e-9]])
    assert float(distance_of(before, change)) == pytest.approx(0.5e-18, rel=1e-4)
    assert 1 - cosine(before[0], before[0] + change[0]) == 0.0


def test_the_part_of_a_change_across_a_row_is_what_turns_it():
    turns = row_turns(torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, -3.0]]))
    assert (turns.own, turns.across) == (25.0, 25.0)
    along = row_turns(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.3, 0.4]]))
    assert along.across == pytest.approx(0.0, abs=1e-7)


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6), st.floats(1e-6, 2.0))
@settings(deadline=None, max_examples=60)
def test_the_cosine_of_a_row_is_that_of_float64(num_rows, num_columns, seed, size):
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(num_rows, num_columns, generator=generator)
    change = size * torch.randn(num_rows, num_columns, generator=generator)
    found = row_turns(before, change).distance
    for row in range(num_rows):
        expected = 1 - cosine(before[row], before[row].double() + change[row].double())
        # float32 sums of products, of which little may be left
        assert float(found[row]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_margins_of_a_matrix_add_up_to_it():
    values = torch.rand(7, 5).double() ** 3
    adder = Adder(values.shape)
    adder.add(0, values[:4].float())
    adder.add(4, values[4:].float())
    margins = adder.margins(None, 2.0)
    fitted = margins.mean + margins.rows[:, None] + margins.columns
    assert margins.mean == pytest.approx(2 * float(values.mean()))
    assert margins.rest == pytest.approx(
        float(((2 * values.numpy() - fitted) ** 2).sum()), rel=1e-5
    )
    assert margins.rows.sum() == pytest.approx(0.0, abs=1e-6)


def test_a_matrix_in_many_chunks_is_measured_as_in_one(monkeypatch):
    weight, change = torch.randn(9, 4), Dense(torch.randn(1, 9, 4))
    closed = torch.rand(9, 4) < 0.3
    whole = measure_whole(weight, change, 0, closed, "w")
    monkeypatch.setattr(_measure, "_CHUNK", 8)
    parts = measure_whole(weight, change, 0, closed, "w")
    assert parts.changed == whole.changed
    assert np.allclose(parts.distances, whole.distances)
    for measure, margins in whole.margins.items():
        assert np.allclose(parts.margins[measure].rows, margins.rows, atol=1e-6)
        assert np.allclose(parts.margins[measure].columns, margins.columns, atol=1e-6)
        assert parts.margins[measure].rest == pytest.approx(margins.rest, rel=1e-5, abs=1e-9)


def test_a_matrix_of_zeros_has_no_unit_to_measure_in():
    with pytest.raises(UserError, match=r"layer\.w is all zeros before the training; leave it out"):
        measure_whole(torch.zeros(2, 2), Dense(torch.ones(1, 2, 2)), 0, None, "layer.w")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_training_that_ended_in_nan_is_told_and_not_averaged(bad):
    change = torch.ones(1, 2, 2)
    change[0, 1, 1] = bad
    with pytest.raises(UserError, match="NaN or infinite weights after the training"):
        measure_whole(torch.ones(2, 2), Dense(change), 0, None, "w")


# --- changes of low rank


def low_rank(rows=4, columns=5, rank=2, scale=1.5):
    left, right = torch.randn(rows, rank), torch.randn(rank, columns)
    return LowRank(scale * left, right), lora_change(left, right, scale)


def test_a_low_rank_change_is_s_b_a_by_rows_and_at_entries():
    change, expected = low_rank()
    assert torch.allclose(change.rows(0, 1, 3).double(), expected[1:3], atol=1e-6)
    rows, columns = torch.tensor([3, 0, 3]), torch.tensor([0, 4, 4])
    assert torch.allclose(change.at(0, rows, columns).double(), expected[rows, columns], atol=1e-6)


def test_the_entries_of_a_low_rank_change_are_made_in_pieces(monkeypatch):
    change, expected = low_rank()
    monkeypatch.setattr("safetypin.track._sources._CHUNK", 4)
    rows, columns = torch.ones(4, 5).nonzero(as_tuple=True)
    assert torch.allclose(change.at(0, rows, columns).double(), expected.flatten(), atol=1e-6)
    nothing = torch.zeros(0, dtype=torch.long)
    assert change.at(0, nothing, nothing).shape == (0,)


def test_entries_of_a_huge_adapter_are_had_without_its_matrix():
    """1e6 x 1e6 in float32 would be 4 TB."""
    change = LowRank(torch.randn(10**6, 4), torch.randn(4, 10**6))
    rows, columns = torch.tensor([5, 999_999]), torch.tensor([999_999, 7])
    expected = (change.left[rows].double() * change.right.T[columns].double()).sum(dim=1)
    assert torch.allclose(change.at(0, rows, columns).double(), expected)


def test_a_column_that_an_adapter_never_reads_cannot_change():
    change, _ = low_rank()
    change.right[:, 2] = 0.0
    assert change.reached(0).tolist() == [[True, True, False, True, True]]


def test_an_adapter_under_a_mask_changes_nothing_there():
    product, expected = low_rank()
    mask = torch.rand(4, 5) < 0.5
    change = Masked(product, mask)
    rows, columns = torch.ones(4, 5).nonzero(as_tuple=True)
    found = change.at(0, rows, columns).view(4, 5)
    assert torch.equal(found[mask], torch.zeros(int(mask.sum())))
    assert torch.equal(change.rows(0, 0, 4), found) or torch.allclose(change.rows(0, 0, 4), found)
    assert torch.allclose(found[~mask].double(), expected[~mask], atol=1e-6)
    assert torch.equal(change.reached(0), ~mask)


def test_two_adapters_of_one_weight_add_up():
    one, first = low_rank()
    other, second = low_rank(rank=3)
    assert torch.allclose(one.joined(other).rows(0, 0, 4).double(), first + second, atol=1e-5)


def test_a_matrix_with_no_changed_entry_is_untouched_and_not_unmoved():
    values = torch.zeros(2, 3, 3)
    values[1, 2, 0] = 1e-30
    assert Dense(values).reached(0) is None
    assert Dense(values).reached(1).all()
