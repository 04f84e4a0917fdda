"""Groups, and the overlap of old and new sets."""

import dataclasses
import json

import pytest
import torch
from tracking_toys import Q0, build, moved, only, set_of

from safetypin.artifacts import ArtifactMismatchError, UserError, WeightMask, WeightScores
from safetypin.models import block_weights, model_id
from safetypin.select import overlap, overlap_by_layer, top_fraction
from safetypin.track import GROUPS, drift, groups_of_scores, set_overlaps, with_controls


@pytest.fixture
def model():
    return build("llama")


def scores_of(model, seed=0, method="snip"):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.rand(weight.weight.shape, generator=generator)
        for name, weight in block_weights(model).items()
    }
    return WeightScores(tensors=tensors, method=method, model_id=model_id(model))


def sizes(mask):
    return {name: int(members.sum()) for name, members in mask.tensors.items()}


# --- groups


def test_groups_of_scores_are_the_papers_sets_and_two_random_ones(model):
    safety, utility = scores_of(model, 0), scores_of(model, 1)
    groups = groups_of_scores(safety, utility, model, q=0.1, p=0.2, top=0.05)
    assert list(groups) == list(GROUPS)
    critical = top_fraction(safety, 0.1) - top_fraction(utility, 0.2)
    assert groups["critical"].fingerprint == critical.fingerprint
    assert groups["top_safety"].fingerprint == top_fraction(safety, 0.05).fingerprint
    assert groups["top_utility"].fingerprint == top_fraction(utility, 0.05).fingerprint
    for name in ("random", "matched"):
        assert sizes(groups[name]) == sizes(critical)
        assert (groups[name] & critical).num_selected == 0


def test_the_tops_are_of_q_where_no_share_is_given(model):
    groups = groups_of_scores(scores_of(model, 0), scores_of(model, 1), model, q=0.1, p=0.2)
    assert groups["top_utility"].fraction == pytest.approx(0.1, abs=0.01)


def test_the_matched_group_has_weights_of_the_same_size(model):
    sizes_of = {n: w.weight.detach().abs() ** 4 for n, w in block_weights(model).items()}
    large = dataclasses.replace(scores_of(model), tensors=sizes_of)
    groups = groups_of_scores(large, scores_of(model, 1), model, q=0.05, p=0.5)

    def mean_size(mask):
        total = sum(
            float(model.get_parameter(n).detach()[m].abs().sum()) for n, m in mask.tensors.items()
        )
        return total / mask.num_selected

    critical, random, matched = (mean_size(groups[n]) for n in ("critical", "random", "matched"))
    assert abs(matched - critical) < 0.3 * abs(random - critical)


def test_groups_made_of_sets_are_ready_for_drift(model):
    groups = with_controls(set_of(model, 0.1), model, top_safety=set_of(model, 0.1, seed=1), seed=4)
    assert list(groups) == ["critical", "top_safety", "random", "matched"]
    table = drift(model, moved(model), groups, num_permutations=0)
    assert {row.group for row in table.rows} == set(groups)
    again = with_controls(set_of(model, 0.1), model, seed=5)
    assert again["random"].fingerprint != groups["random"].fingerprint


def test_an_empty_critical_set_is_refused(model):
    with pytest.raises(UserError, match="the safety-critical set is empty; take a larger q"):
        with_controls(only(set_of(model)), model)


def test_tops_of_another_model_are_refused(model):
    with pytest.raises(ArtifactMismatchError, match="the masks are of two models"):
        with_controls(set_of(model), model, top_utility=set_of(moved(model)))


# --- overlaps


def after_training(mask, seed=9):
    """A new set of a tuned model: half of the old one, and others."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, members in mask.tensors.items():
        keep = torch.rand(members.shape, generator=generator) < 0.5
        tensors[name] = torch.where(keep, members, members.flip(0))
    return WeightMask(tensors=tensors, model_id="tuned#0123456789ab")


def test_old_and_new_sets_are_compared_though_the_tuned_model_is_another(model):
    old = set_of(model)
    new = after_training(old)
    table = set_overlaps({"critical": old}, {"critical": new})
    expected = overlap(old, dataclasses.replace(new, model_id=old.model_id))
    assert table.find("critical").found == expected
    layers = overlap_by_layer(old, dataclasses.replace(new, model_id=old.model_id))
    assert table.find("critical", layer=1).found == layers[1].overlap
    places = [(row.layer, row.role) for row in table.rows]
    assert places[:3] == [(None, None), (0, None), (1, None)]
    assert (None, "self_attn.q_proj") in places
    assert len(places) == 1 + 2 + 7 + 14


def test_a_set_that_stayed_overlaps_wholly_and_chance_says_little(model):
    old = set_of(model)
    row = set_overlaps({"a": old}, {"a": dataclasses.replace(old, model_id="t#1")}).to_rows()[0]
    assert (row["share"], row["jaccard"]) == (1.0, 1.0)
    assert row["chance_share"] == pytest.approx(old.fraction, rel=0.1)
    assert row["chance_share_low"] < row["chance_share"] < row["chance_share_high"] < 0.5


def test_noise_floor_and_control_stand_beside_each_overlap(model):
    old, halves = set_of(model), (set_of(model, seed=1), set_of(model, seed=2))
    control = after_training(old, seed=3)
    table = set_overlaps(
        {"a": old, "b": halves[0]},
        {"a": after_training(old), "b": after_training(halves[0])},
        {"a": halves},
        control={"a": control},
    )
    row = table.find("a", layer=0)
    assert row.noise == overlap_by_layer(*halves)[0].overlap
    assert (
        row.control.num_b
        == overlap_by_layer(old, dataclasses.replace(control, model_id=old.model_id))[
            0
        ].overlap.num_b
    )
    flat = table.find("b").to_json()
    assert (flat["noise_jaccard"], flat["control_jaccard"]) == (None, None)
    assert table.find("a").to_json()["noise_jaccard"] == overlap(*halves).jaccard


def test_a_share_of_an_empty_set_is_none_and_not_zero(model):
    empty = only(set_of(model))
    row = set_overlaps({"a": empty}, {"a": empty}).to_rows()[0]
    assert (
        row["share"] is row["jaccard"] is row["chance_share"] is row["chance_jaccard_low"] is None
    )


def test_rows_are_json_values_with_the_columns_that_are_promised(model):
    old = set_of(model)
    rows = set_overlaps({"a": old}, {"a": after_training(old)}).to_rows()
    assert list(rows[0]) == [
        "level", "group", "layer", "role", "num_weights", "num_before", "num_after", "num_both",
        "share", "jaccard", "chance_share", "chance_share_low", "chance_share_high",
        "chance_jaccard", "chance_jaccard_low", "chance_jaccard_high", "noise_share",
        "noise_jaccard", "control_share", "control_jaccard",
    ]  # fmt: skip
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["level"] for row in rows[:4]] == ["all", "layer", "layer", "role"]


def test_a_row_that_is_not_there_is_a_key_error(model):
    old = set_of(model)
    with pytest.raises(KeyError, match="no row of a, layer 9"):
        set_overlaps({"a": old}, {"a": old}).find("a", layer=9)


def test_other_groups_before_than_after_are_refused(model):
    old = set_of(model)
    with pytest.raises(UserError, match="groups before are a, after b; make the same sets of both"):
        set_overlaps({"a": old}, {"b": old})
    with pytest.raises(UserError, match="groups before are none, after none"):
        set_overlaps({}, {})


def test_sets_of_models_of_other_shapes_are_refused(model):
    other = set_of(build("qwen3"))
    with pytest.raises(ArtifactMismatchError, match="one was not tuned from the other"):
        set_overlaps({"a": set_of(model)}, {"a": other})
    part = dataclasses.replace(set_of(model), tensors={Q0: set_of(model).tensors[Q0]})
    with pytest.raises(ArtifactMismatchError, match="scored with different --targets"):
        set_overlaps({"a": set_of(model)}, {"a": part})


def test_sets_in_other_coordinates_are_refused(model):
    turned = dataclasses.replace(set_of(model), space="basis")
    with pytest.raises(ArtifactMismatchError, match="coordinates differ"):
        set_overlaps({"a": set_of(model)}, {"a": turned})
