import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.tracking import relabelled_sums
from safetypin.track import _relabel
from safetypin.track._measure import Measured, Sums, measure_members, measure_whole, row_turns
from safetypin.track._relabel import TESTED, chances
from safetypin.track._sources import Dense

ALL = (None, None)


def measured(weight, change, masks, *, layer=0, role="up"):
    whole = measure_whole(weight, change, 0, None, "w")
    sums = {
        group: measure_members(weight, change, 0, mask.nonzero(as_tuple=True), None, whole)
        for group, mask in masks.items()
    }
    return Measured(layer=layer, role=role, whole=whole, sums=sums)


def chance_of(parts, *, num_permutations=999, seed=0, cells=None):
    cells = cells or {ALL: range(len(parts))}
    groups = list(parts[0].sums)
    return chances(parts, cells, groups, num_permutations=num_permutations, seed=seed)


def striped(rows=24, columns=18, *, seed=0):
    """A change that is larger in some rows and columns, and a set that lies in some of them."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(rows, 1, generator=generator) ** 2 + torch.rand(columns, generator=generator)
    change = size * torch.randn(rows, columns, generator=generator)
    density = torch.rand(rows, 1, generator=generator) * torch.rand(columns, generator=generator)
    mask = torch.rand(rows, columns, generator=generator) < density
    return torch.randn(rows, columns, generator=generator), change, mask


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("measure", ["rms_units", "norm_ratio"])
def test_sums_are_spread_as_those_of_moving_every_row_and_column(measure, seed):
    # in small matrices the rest of dW^2, which has a long tail, is not yet normal
    weight, change, mask = striped(*((48, 36) if measure == "rms_units" else (192, 144)), seed=seed)
    one = measured(weight, Dense(change[None]), {"set": mask})
    amounts = change.abs() / one.whole.rms if measure == "rms_units" else change.square()
    slow = relabelled_sums(amounts, mask, 2000, seed)
    fast = next(_relabel._random_sums(measure, [one], ["set"], 2000, seed))[:, 0, 0]
    fast = fast + one.sums["set"].expected[measure]
    # four standard errors of two samples of 2000
    assert fast.mean() == pytest.approx(float(slow.mean()), abs=0.13 * float(slow.std()))
    assert fast.std() == pytest.approx(float(slow.std()), rel=0.08)
    ends = [0.025, 0.25, 0.75, 0.975]
    slow_ends = slow.quantile(torch.tensor(ends, dtype=torch.float64))
    found = np.quantile(fast, ends)
    assert found == pytest.approx(slow_ends.tolist(), abs=0.25 * float(slow.std()))


def test_the_turn_of_rows_is_permuted_exactly():
    weight, change, mask = striped()
    one = measured(weight, Dense(0.01 * change[None]), {"set": mask})
    turned = row_turns(weight, 0.01 * change).across / 2
    factors = mask.sum(dim=1).numpy() / weight.double().square().sum(dim=1).numpy()
    fast = next(_relabel._random_sums("row_cosine", [one], ["set"], 500, 3))[:, 0, 0]
    orders = _relabel._Orders(3)
    orders.draw(500)
    order = orders.of("rows", len(weight)).numpy()
    slow = (factors * (turned[order] - turned.mean())).sum(axis=1)
    assert fast == pytest.approx(slow, rel=1e-3, abs=1e-9)


@functools.cache
def chances_of_nothing(rank, *, count=150):
    """What is found where the changes know nothing of the set, which lies in a few rows."""
    found = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        weight, _, mask = striped(seed=10_000 + seed)
        weight = weight * (1 + 4 * mask)  # of large weights, as those of scores are
        change = torch.randn(mask.shape, generator=generator)
        if rank is not None:
            left = torch.randn(mask.shape[0], rank, generator=generator)
            change = left @ torch.randn(rank, mask.shape[1], generator=generator)
        one = measured(weight, Dense(0.01 * change[None]), {"set": mask})
        found.append(chance_of([one], num_permutations=99, seed=seed))
    return found


@pytest.mark.parametrize("rank", [None, 1, 4])
@pytest.mark.parametrize("measure", TESTED)
def test_changes_that_know_nothing_of_the_set_are_called_an_effect_as_often_as_said(measure, rank):
    found = np.array([one[measure, "set", ALL].p_value for one in chances_of_nothing(rank)])
    # 5 % of 150 is 7.5; 17 or more come in one of a thousand such tests
    assert (found <= 0.05).sum() <= 16
    assert 0.3 < found.mean() < 0.7


def test_permuting_single_entries_would_call_a_change_of_low_rank_an_effect():
    """Why whole rows and columns are moved: entries share those of an adapter."""
    num_small = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        _, _, mask = striped(48, 36, seed=10_000 + seed)
        left, right = torch.randn(48, 1, generator=generator), torch.randn(36, generator=generator)
        amounts = (left * right).abs().flatten().numpy()
        members = mask.flatten().numpy()
        random = np.random.default_rng(seed)
        shuffled = random.permuted(np.tile(amounts, (199, 1)), axis=1)[:, : members.sum()]
        excess = abs(amounts[members].mean() - amounts.mean())
        num_as_far = (np.abs(shuffled.mean(axis=1) - amounts.mean()) >= excess).sum()
        num_small += (num_as_far + 1) / 200 <= 0.05
    assert num_small > 20  # of 60, where 3 would be right


def test_a_set_that_moves_more_than_the_rest_is_found():
    weight, change, mask = striped()
    moved_more = torch.where(mask, 3 * change, change)
    one = measured(weight, Dense(moved_more[None]), {"set": mask})
    found = chance_of([one])
    assert found["rms_units", "set", ALL].p_value == 1 / 1000
    assert found["norm_ratio", "set", ALL].p_value == 1 / 1000


def test_where_all_weights_move_alike_nothing_is_found():
    weight, _, mask = striped()
    one = measured(weight, Dense(torch.full((1, *mask.shape), 0.5)), {"set": mask})
    found = chance_of([one])
    assert found["rms_units", "set", ALL].p_value == 1.0
    assert found["norm_ratio", "set", ALL].p_value == 1.0


def test_a_set_of_every_weight_is_as_far_as_any():
    weight, change, _ = striped()
    mask = torch.ones(weight.shape, dtype=torch.bool)
    one = measured(weight, Dense(change[None]), {"set": mask})
    assert chance_of([one])["rms_units", "set", ALL].p_value == 1.0


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (1, 1)])
def test_a_matrix_of_one_row_or_column_is_permuted_along_the_other(shape):
    weight, mask = torch.ones(shape), torch.zeros(shape, dtype=torch.bool)
    mask[0, 0] = True
    one = measured(weight, Dense(torch.rand(1, *shape)), {"set": mask})
    for measure in TESTED:
        assert 0 < chance_of([one], num_permutations=19)[measure, "set", ALL].p_value <= 1


@given(st.integers(1, 40), st.integers(0, 1000), st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_a_p_value_is_never_0_and_the_interval_holds_the_expected_sum(count, seed, num_parts):
    parts = [measured(w, Dense(c[None]), {"set": m}) for w, c, m in map(_of, range(num_parts))]
    for chance in chance_of(parts, num_permutations=count, seed=seed).values():
        assert 1 / (count + 1) <= chance.p_value <= 1
        assert chance.low <= chance.high


def _of(seed):
    return striped(6, 5, seed=seed)


def test_the_same_seed_gives_the_same_and_another_seed_another():
    weight, change, mask = striped()
    one = measured(weight, Dense(change[None]), {"set": mask})
    key = "rms_units", "set", ALL
    first, again, other = (chance_of([one], seed=seed)[key] for seed in (0, 0, 1))
    assert first == again
    assert first.low != other.low


def test_memory_is_bounded_by_blocks_that_change_nothing(monkeypatch):
    weight, change, mask = striped()
    one = measured(weight, Dense(change[None]), {"a": mask, "b": ~mask})
    whole = chance_of([one, one], num_permutations=50)
    monkeypatch.setattr(_relabel, "_MAX_CELLS", 100)
    parts = chance_of([one, one], num_permutations=50)
    sizes = [len(block) for block in _relabel._random_sums("rms_units", [one], ["a"], 50, 0)]
    assert len(sizes) > 5
    for key, chance in whole.items():
        assert parts[key] == pytest.approx(chance, rel=1e-4)


def test_matrices_of_one_shape_are_reordered_together():
    """q, k and v read the same inputs, so what is common to their columns stays common."""
    weight, change, mask = striped()
    one = measured(weight, Dense(change[None]), {"set": mask})
    single = next(_relabel._random_sums("row_cosine", [one], ["set"], 99, 0))
    double = next(_relabel._random_sums("row_cosine", [one, one], ["set"], 99, 0))
    assert np.array_equal(double[:, 0], single[:, 0])
    assert np.array_equal(double[:, 1], single[:, 0])


def test_a_matrix_that_nothing_could_change_takes_no_part():
    weight, change, mask = striped()
    one = measured(weight, Dense(change[None]), {"set": mask})
    fixed = Measured(layer=0, role="q", whole=None, sums={"set": Sums(num_weights=9)})
    key = "norm_ratio", "set", ALL
    assert chance_of([one, fixed])[key].p_value == chance_of([one])[key].p_value


def test_every_part_of_the_model_has_its_own_p_value():
    weight, change, mask = striped()
    strong = measured(weight, Dense(torch.where(mask, 3 * change, change)[None]), {"set": mask})
    other = measured(weight, Dense(change.flip(0)[None]), {"set": mask}, layer=1)
    cells = {(0, None): [0], (1, None): [1], ALL: [0, 1]}
    found = chance_of([strong, other], cells=cells)
    assert found["rms_units", "set", (0, None)].p_value == 1 / 1000
    assert found["rms_units", "set", (1, None)].p_value > 1 / 1000
