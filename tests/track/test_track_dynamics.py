import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.tracking import rank_by_counting
from safetypin.artifacts import ArtifactMismatchError, UserError, WeightMask, WeightScores
from safetypin.track import score_dynamics
from safetypin.track._dynamics import BINS_PER_DECADE, log_counts, rank_shares
from safetypin.track._dynamics_table import PERCENTILES

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"
NAMES = (UP, DOWN)


def scores_of(*values, model_id="m#1", **options):
    tensors = {
        name: torch.tensor(value, dtype=torch.float32)
        for name, value in zip(NAMES, values, strict=False)
    }
    options = {"method": "snip", "model_id": model_id, **options}
    return WeightScores(tensors=tensors, **options)


def mask_of(*values, model_id="m#1"):
    tensors = {
        name: torch.tensor(value, dtype=torch.bool)
        for name, value in zip(NAMES, values, strict=False)
    }
    return WeightMask(tensors=tensors, model_id=model_id)


def random_scores(seed, shape=(6, 5), model_id="m#1"):
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.rand(shape, generator=generator) for name in NAMES}
    return WeightScores(tensors=tensors, method="snip", model_id=model_id)


def random_mask(seed, shape=(6, 5), share=0.3):
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.rand(shape, generator=generator) < share for name in NAMES}
    tensors[UP][0, 0] = True
    return WeightMask(tensors=tensors, model_id="m#1")


def test_the_dynamics_of_a_worked_example():
    before = scores_of([[4.0, 2.0], [1.0, 3.0]])
    after = scores_of([[1.0, 2.0], [0.5, 4.0]], model_id="tuned#2")
    row = score_dynamics(before, after, mask_of([[1, 0], [0, 1]])).find()
    assert (row.group, row.num_weights) == ("set", 2)
    assert (row.mean_before, row.mean_after) == (3.5, 2.5)
    assert (row.sd_before, row.sd_after) == (0.5, 1.5)
    assert row.drop == pytest.approx(1 / 3.5)
    assert row.drop_of_all == pytest.approx(1 - 1.875 / 2.5)
    assert row.share_lower == 0.5
    # 4 is above three of four and equal to itself: 3.5 / 4; then 1 is 1.5 / 4
    assert (row.rank_before, row.rank_after) == ((3.5 + 2.5) / 8, (1.5 + 3.5) / 8)
    assert row.rank_change == pytest.approx(-1 / 8)
    # -2 / 4 and +1 / 4
    assert row.rank_change_sd == pytest.approx(0.375)
    assert row.percentiles_before[2] == 3.5


def test_a_weight_that_left_the_top_with_the_same_score_did_not_change():
    """E57: the papers' code calls its score 0 then, and the drop 100 %."""
    before = scores_of([[4.0, 1.0, 1.0, 1.0]])
    after = scores_of([[4.0, 9.0, 9.0, 9.0]], model_id="tuned#2")
    row = score_dynamics(before, after, mask_of([[1, 0, 0, 0]])).find()
    assert (row.mean_after, row.drop, row.share_lower) == (4.0, 0.0, 0.0)
    assert (row.rank_before, row.rank_after) == (3.5 / 4, 0.5 / 4)


def test_a_score_that_halves_everywhere_is_told_by_what_happened_to_all():
    before = random_scores(0)
    half = {name: tensor / 2 for name, tensor in before.tensors.items()}
    after = dataclasses.replace(before, tensors=half)
    row = score_dynamics(before, after, random_mask(1)).find()
    assert row.drop == pytest.approx(0.5)
    assert row.drop_of_all == pytest.approx(0.5)
    assert row.rank_change == 0.0


def test_what_happened_to_all_counts_matrices_as_the_set_lies_in_them():
    before = scores_of([[1.0, 1.0]], [[1.0, 1.0]])
    after = scores_of([[1.0, 1.0]], [[0.5, 0.5]])
    row = score_dynamics(before, after, mask_of([[1, 0]], [[0, 0]])).find()
    assert (row.drop, row.drop_of_all) == (0.0, 0.0)


def test_a_score_of_nothing_has_no_drop():
    zeros = scores_of([[0.0, 0.0]])
    row = score_dynamics(zeros, zeros, mask_of([[1, 1]])).find()
    assert row.drop is None
    assert row.drop_of_all is None
    assert (row.rank_before, row.share_lower) == (0.5, 0.0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
@settings(deadline=None, max_examples=40)
def test_ranks_are_those_of_counting_with_ties_counted_half(values):
    scores = np.array(values, dtype=np.float32)
    found = rank_shares(scores, np.sort(scores))
    assert found.tolist() == [rank_by_counting(torch.tensor(scores), value) for value in scores]
    assert found.mean() == pytest.approx(0.5)


@given(st.integers(0, 50), st.permutations(NAMES))
@settings(deadline=None, max_examples=15)
def test_the_order_of_the_weights_changes_nothing(seed, order):
    before, after, mask = random_scores(seed), random_scores(seed + 99), random_mask(seed)
    turned = dataclasses.replace(before, tensors={name: before.tensors[name] for name in order})
    straight, other = (score_dynamics(one, after, mask) for one in (before, turned))
    for row in straight.rows:
        found = other.find(layer=row.layer, role=row.role)
        assert found.mean_after == pytest.approx(row.mean_after)
        assert found.rank_change_sd == pytest.approx(row.rank_change_sd, abs=1e-12)


def test_numbers_are_those_of_numpy_on_all_members():
    before, after, mask = random_scores(0), random_scores(1), random_mask(2)
    row = score_dynamics(before, after, mask).find()
    old, new = (
        np.concatenate([s.tensors[n][mask.tensors[n]].numpy() for n in NAMES]).astype(float)
        for s in (before, after)
    )
    assert row.mean_before == pytest.approx(old.mean())
    assert row.sd_after == pytest.approx(new.std())
    assert row.percentiles_after == pytest.approx(tuple(np.percentile(new, PERCENTILES)))
    assert row.share_lower == (new < old).mean()
    ranks = [
        [rank_by_counting(s.tensors[n], v) for n in NAMES for v in s.tensors[n][mask.tensors[n]]]
        for s in (before, after)
    ]
    change = np.array(ranks[1]) - np.array(ranks[0])
    assert row.rank_change == pytest.approx(change.mean())
    assert row.rank_change_sd == pytest.approx(change.std())


def test_each_expert_is_ranked_in_its_own_matrix():
    before = scores_of([[[1.0, 2.0]], [[30.0, 40.0]]])
    row = score_dynamics(before, before, mask_of([[[0, 1]], [[1, 0]]])).find()
    assert row.rank_before == (0.75 + 0.25) / 2


def test_there_are_rows_for_all_layers_roles_and_matrices_and_several_groups():
    groups = {"a": random_mask(1), "b": random_mask(2)}
    table = score_dynamics(random_scores(0), random_scores(1), groups)
    assert [(row.layer, row.role) for row in table.rows if row.group == "b"] == [
        (None, None), (0, None), (1, None), (None, "mlp.up_proj"), (None, "mlp.down_proj"),
        (0, "mlp.up_proj"), (1, "mlp.down_proj"),
    ]  # fmt: skip
    assert table.find("a", layer=0).num_weights == int(groups["a"].tensors[UP].sum())
    one = score_dynamics(random_scores(0), random_scores(1), groups["b"])
    assert one.find() == dataclasses.replace(table.find("b"), group="set")
    with pytest.raises(KeyError, match="no row of a, layer 5"):
        table.find("a", layer=5)


def test_a_part_without_members_has_no_row():
    scores = scores_of([[1.0, 2.0]], [[1.0, 2.0]])
    table = score_dynamics(scores, scores, mask_of([[1, 0]], [[0, 0]]))
    assert {row.layer for row in table.rows} == {None, 0}


# --- histograms


def test_a_histogram_has_one_set_of_bins_for_before_and_after():
    before = scores_of([[1.0, 10.0, 0.0, 5.0]])
    after = scores_of([[0.0, 0.001, 0.0, 7.0]])
    (whole, *_) = score_dynamics(before, after, mask_of([[1, 1, 1, 0]])).histograms
    assert len(whole.edges) == len(whole.before) + 1 == len(whole.after) + 1
    assert (sum(whole.before), whole.zeros_before) == (2, 1)
    assert (sum(whole.after), whole.zeros_after) == (1, 2)
    assert whole.edges[0] == pytest.approx(0.001)
    assert whole.edges[0] <= 0.001 * (1 + 1e-9)
    assert whole.edges[-1] > 10.0
    ratios = np.diff(np.log10(whole.edges))
    assert ratios == pytest.approx(np.full(len(ratios), 1 / BINS_PER_DECADE))


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=30))
@settings(deadline=None, max_examples=40)
def test_every_positive_score_is_in_one_bin(values):
    scores = np.array(values, dtype=np.float32)
    assert log_counts(scores).sum() == (scores > 0).sum()


def test_the_smallest_and_largest_float32_have_a_bin():
    scores = np.array([1.4e-45, 3.4e38], dtype=np.float32)
    assert log_counts(scores).sum() == 2


def test_histograms_of_parts_add_up():
    table = score_dynamics(random_scores(0), random_scores(1), random_mask(2))
    places = [(one.layer, one.role) for one in table.histograms]
    assert places == [
        (None, None), (0, None), (1, None), (None, "mlp.up_proj"), (None, "mlp.down_proj"),
    ]  # fmt: skip
    whole, first, second = (sum(one.before) for one in table.histograms[:3])
    assert whole == first + second


def test_a_histogram_of_zeros_has_no_bins():
    zeros = scores_of([[0.0, 0.0]])
    (whole, *_) = score_dynamics(zeros, zeros, mask_of([[1, 1]])).histograms
    assert (whole.edges, whole.before, whole.zeros_before) == ((), (), 2)


def test_everything_is_json_values():
    table = score_dynamics(random_scores(0), random_scores(1), random_mask(2))
    rows = table.to_rows()
    assert list(rows[0]) == [
        "level", "group", "layer", "role", "num_weights", "mean_before", "mean_after", "sd_before",
        "sd_after", "drop", "drop_of_all", "share_lower", "rank_before", "rank_after",
        "rank_change_sd", "p05_before", "p25_before", "p50_before", "p75_before", "p95_before",
        "p05_after", "p25_after", "p50_after", "p75_after", "p95_after", "rank_change",
    ]  # fmt: skip
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    histogram = json.loads(json.dumps(table.histograms[0].to_json()))
    assert tuple(histogram["edges"]) == table.histograms[0].edges


def test_every_score_is_asked_for_once_and_progress_counts_them():
    asked, seen = [], []

    class Lazy(dict):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    before, after = random_scores(0), random_scores(1)
    lazy = dataclasses.replace(before, tensors=Lazy(before.tensors))
    groups = {"a": random_mask(1), "b": random_mask(2)}
    asked.clear()  # the types were checked when it was made
    score_dynamics(lazy, after, groups, progress=seen.append)
    assert sorted(asked) == sorted(NAMES)
    assert sum(seen) == groups["a"].num_weights


# --- notes and bad input


def test_that_a_chosen_set_falls_on_any_new_scoring_is_said_beside_the_numbers():
    """Chosen on one half of the noise, it falls on the other though nothing was trained."""
    truth = torch.rand(200, 50, generator=torch.Generator().manual_seed(0))
    halves = []
    for seed in (1, 2):
        noise = torch.rand(200, 50, generator=torch.Generator().manual_seed(seed))
        halves.append(WeightScores(tensors={UP: truth + noise}, method="snip", model_id="m#1"))
    top = halves[0].tensors[UP] > halves[0].tensors[UP].flatten().kthvalue(9900).values
    mask = WeightMask(tensors={UP: top}, model_id="m#1")
    table = score_dynamics(*halves, mask)
    assert table.find().drop > 0.1
    assert table.find().rank_change < -0.05
    assert any("falls whenever anything is scored anew" in note for note in table.notes)


def test_other_prompts_and_tokens_are_told():
    before = dataclasses.replace(random_scores(0), prompts_id="a", num_tokens=1000)
    after = dataclasses.replace(random_scores(1), prompts_id="b", num_tokens=900)
    notes = score_dynamics(before, after, random_mask(0)).notes
    assert any("the two scores are of different prompts" in note for note in notes)
    assert any("1,000 tokens were counted before and 900 after" in note for note in notes)
    assert len(score_dynamics(before, before, random_mask(0)).notes) == 1


def refused(text, error=ArtifactMismatchError):
    return pytest.raises(error, match=text)


def test_scores_that_were_not_made_in_the_same_way_are_refused():
    before, mask = random_scores(0), random_mask(0)
    with refused("scores before are snip in weights, after wanda in weights"):
        score_dynamics(before, dataclasses.replace(before, method="wanda"), mask)
    with refused("after snip in basis-1; score both models in the same way"):
        score_dynamics(before, dataclasses.replace(before, space="basis-1"), mask)


def test_scores_of_a_model_with_unmerged_adapters_are_refused():
    """E58: their names are `base_model.model. ... .base_layer.weight`."""
    before, mask = random_scores(0), random_mask(0)
    odd = {f"base_model.model.{name}": tensor for name, tensor in before.tensors.items()}
    with refused("4 weights have a score only before or only after, .*; merge adapters first"):
        score_dynamics(before, dataclasses.replace(before, tensors=odd), mask)


def test_a_set_of_the_model_after_is_refused():
    before, after = random_scores(0), random_scores(1, model_id="tuned#2")
    mask = dataclasses.replace(random_mask(0), model_id="tuned#2")
    with refused("'set' is a set of tuned#2, the scores before are of m#1; score dynamics follow"):
        score_dynamics(before, after, mask)


def test_a_set_of_other_weights_and_no_set_are_refused():
    scores = random_scores(0)
    part = dataclasses.replace(random_mask(0), tensors={UP: random_mask(0).tensors[UP]})
    with refused("the group 'a' is of other weights than the scores"):
        score_dynamics(scores, scores, {"a": part})
    with refused("the group 'set' is of other weights than the scores"):
        score_dynamics(scores, scores, random_mask(0, shape=(3, 3)))
    with refused("no group was given", UserError):
        score_dynamics(scores, scores, {})
    with refused("the group 'set' is empty", UserError):
        score_dynamics(scores, scores, mask_of([[0] * 5] * 6, [[0] * 5] * 6))


def test_scores_of_other_shapes_are_refused():
    with refused("is \\(6, 5\\) before and \\(3, 10\\) after: the scores are of two models"):
        score_dynamics(random_scores(0), random_scores(0, shape=(3, 10)), random_mask(0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_scores_that_are_no_scores_are_refused(bad):
    before, after = random_scores(0), random_scores(1)
    after.tensors[DOWN][0, 0] = bad
    with refused("a snip score of m#1 is negative, NaN or infinite; score again", UserError):
        score_dynamics(before, after, random_mask(0))
