import copy
import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tracking_toys import Q0, UP1, build, largest, moved, only, save_full, set_of, weights_of
from transformers import LlamaConfig, LlamaForCausalLM

from reference.tracking import drift_by_hand
from safetypin.artifacts import ArtifactMismatchError, UserError, WeightMask
from safetypin.models import block_weights, model_id
from safetypin.statistics import holm
from safetypin.track import (
    MEASURES,
    Checkpoint,
    changes,
    curve_rows,
    drift,
    drift_curves,
    null_model,
)

TESTED = ("rms_units", "norm_ratio", "row_cosine")


@pytest.fixture
def model():
    return build("llama")


def values(table, group, **place):
    return {measure: table.find(group, measure, **place).value for measure in MEASURES}


def test_every_measure_is_what_a_loop_over_the_members_gives(model):
    tuned, mask = moved(model), set_of(model, 0.1)
    found = values(drift(model, tuned, {"set": mask}, num_permutations=0), "set")
    by_hand = drift_by_hand(weights_of(model, mask), weights_of(tuned, mask), mask.tensors)
    assert found == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "phi3", "gpt_neox", "qwen3"])
def test_fused_and_transposed_weights_are_measured_with_outputs_as_rows(family):
    model = build(family)
    tuned, mask = moved(model), set_of(model, 0.1)
    found = values(drift(model, tuned, {"set": mask}, num_permutations=0), "set")
    turned = {name: weight.layout == "conv1d" for name, weight in block_weights(model).items()}
    assert any(turned.values()) == (family == "gpt2")

    def upright(tensors):
        return {name: t.T if turned[name] else t for name, t in tensors.items()}

    by_hand = drift_by_hand(
        upright(weights_of(model, mask)), upright(weights_of(tuned, mask)), upright(mask.tensors)
    )
    assert found == pytest.approx(by_hand, rel=1e-4)


def test_each_expert_is_a_matrix_of_its_own():
    model = build("mixtral")
    tuned, mask = moved(model), set_of(model, 0.1)
    found = values(drift(model, tuned, {"set": mask}, num_permutations=0), "set")

    def apart(tensors):
        parts = {}
        for name, tensor in tensors.items():
            for index, part in enumerate(tensor if tensor.ndim == 3 else [tensor]):
                parts[f"{name} {index}"] = part
        return parts

    by_hand = drift_by_hand(
        apart(weights_of(model, mask)), apart(weights_of(tuned, mask)), apart(mask.tensors)
    )
    assert found == pytest.approx(by_hand, rel=1e-4)


def test_there_is_a_row_for_all_for_each_layer_each_role_and_each_matrix(model):
    table = drift(model, moved(model), {"set": set_of(model)}, num_permutations=9)
    levels = [row.level for row in table.rows if row.measure == "rms_units"]
    assert {level: levels.count(level) for level in set(levels)} == {
        "all": 1, "layer": 2, "role": 7, "matrix": 14,
    }  # fmt: skip
    assert table.find("set", "rms_units", layer=1, role="mlp.up_proj").num_weights > 0


def test_a_part_is_measured_as_if_it_were_alone(model):
    tuned, mask = moved(model), set_of(model)
    table = drift(model, tuned, {"set": mask}, num_permutations=0)
    alone = drift(model, tuned, {"set": only(mask, UP1)}, num_permutations=0)
    place = {"layer": 1, "role": "mlp.up_proj"}
    assert values(table, "set", **place) == pytest.approx(values(alone, "set"))
    assert [row.level for row in alone.rows if row.measure == "norm_ratio"] == [
        "all", "layer", "role", "matrix",
    ]  # fmt: skip


def test_the_spread_is_over_matrices_and_none_for_one(model):
    mask = only(set_of(model), Q0, UP1)
    table = drift(model, moved(model), {"set": mask}, num_permutations=0)
    row = table.find("set", "rms_units")
    parts = [
        table.find("set", "rms_units", layer=0, role="self_attn.q_proj"),
        table.find("set", "rms_units", layer=1, role="mlp.up_proj"),
    ]
    share = parts[0].num_weights / row.num_weights
    gap = abs(parts[0].value - parts[1].value)
    assert row.spread == pytest.approx(gap * math.sqrt(share * (1 - share)))
    assert parts[0].spread is None


def test_a_model_that_did_not_move_has_untouched_weights_and_no_drift_of_0(model):
    table = drift(model, copy.deepcopy(model), {"set": set_of(model)}, num_permutations=9)
    for row in table.rows:
        assert (row.num_trainable, row.trainable_share) == (0, 0.0)
        assert row.value is row.expected is row.spread is row.p_value is row.ratio is None
    assert any("100.0% of its" in note and "not trainable" in note for note in table.notes)


def test_weights_outside_what_was_trained_are_not_trainable_and_count_in_no_mean(model):
    """Three quarters of the papers' groups were, and entered their means as drift 0."""
    tuned, mask = moved(model, names=[Q0]), set_of(model)
    table = drift(model, tuned, {"set": mask, "mlp": only(mask, UP1)}, num_permutations=0)
    row = table.find("set", "rms_units")
    inside = table.find("set", "rms_units", layer=0, role="self_attn.q_proj")
    assert row.num_trainable == inside.num_weights == int(mask.tensors[Q0].sum())
    assert row.value == inside.value
    assert table.find("set", "norm_ratio").value == inside_norm(table)
    outside = table.find("mlp", "rms_units")
    assert (outside.value, outside.trainable_share) == (None, 0.0)


def inside_norm(table):
    return table.find("set", "norm_ratio", layer=0, role="self_attn.q_proj").value


def test_frozen_weights_are_not_trainable_though_their_matrix_was_trained(model):
    mask = set_of(model)
    tuned = moved(model)
    with torch.no_grad():
        for name, members in mask.tensors.items():
            tuned.get_parameter(name)[members] = model.get_parameter(name)[members]
    rest = dataclasses.replace(mask, tensors={n: ~m for n, m in mask.tensors.items()})
    table = drift(model, tuned, {"frozen": mask, "rest": rest}, frozen=mask, num_permutations=99)
    assert table.find("frozen", "rms_units").value is None
    assert table.find("rest", "rms_units").num_trainable == rest.num_selected
    # the mean of all weights that can change is the mean of this very set
    row = table.find("rest", "rms_units")
    assert row.value == pytest.approx(row.expected)
    assert not any("differ from" in n or "not one of its" in n for n in table.notes)
    unfrozen = drift(model, tuned, {"frozen": mask}, num_permutations=0)
    assert unfrozen.find("frozen", "rms_units").value == 0.0
    assert any("frozen: not one of its" in n and "give them as such" in n for n in unfrozen.notes)


def test_weights_said_to_be_frozen_that_moved_are_counted_and_told(model):
    mask = only(set_of(model), Q0)
    tuned = moved(model, names=[Q0])
    table = drift(model, tuned, {"set": set_of(model)}, frozen=mask, num_permutations=0)
    count = mask.num_selected
    assert any(f"{count:,} weights that were given as frozen differ" in n for n in table.notes)


def test_the_expected_value_is_that_of_a_random_set_of_as_many_in_every_matrix(model):
    tuned, mask = moved(model), largest(model)
    table = drift(model, tuned, {"set": mask}, num_permutations=0)
    total = count = 0.0
    for name, members in mask.tensors.items():
        before = model.get_parameter(name).detach().double()
        change = (tuned.get_parameter(name).detach().double() - before).abs()
        total += int(members.sum()) * float(change.mean() / before.square().mean().sqrt())
        count += int(members.sum())
    assert table.find("set", "rms_units").expected == pytest.approx(total / count, rel=1e-5)


# --- what a training that knows nothing of the sets shows


@pytest.mark.parametrize("rank", [None, 2])
def test_changes_that_know_nothing_show_no_effect_but_a_huge_one_in_the_papers_measure(rank):
    """With |w| normal, the top 1 % against all: 36 times in the source documents' simulation."""
    model = build_wide()
    groups = {"top": largest(model, 0.01), "random": set_of(model, 0.01)}
    table = drift(model, null_model(model, 1e-3, rank=rank), groups, num_permutations=199)
    for group in groups:
        for measure in TESTED:
            row = table.find(group, measure)
            assert row.ratio == pytest.approx(1.0, abs=0.1), (group, measure)
            assert row.p_value > 0.01
    papers = [table.find(group, "relative_change").value for group in ("random", "top")]
    assert papers[0] / papers[1] > 15
    default = [table.find(group, "rms_units").value for group in ("random", "top")]
    assert default[0] / default[1] == pytest.approx(1.0, abs=0.1)


def build_wide():
    """A model with matrices large enough for a top 1 %."""
    sizes = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 32}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def test_a_row_of_large_weights_turns_less_and_that_is_expected_of_it():
    """The cosine has the papers' artefact too, but the expected value has it as well."""
    model = build_wide()
    with torch.no_grad():
        for name in block_weights(model):
            model.get_parameter(name)[::2] *= 4
    mask = set_of(model, 0.05)
    large = {n: m & (torch.arange(len(m)) % 2 == 0)[:, None] for n, m in mask.tensors.items()}
    groups = {
        "large": WeightMask(tensors=large, model_id=model_id(model)),
        "small": dataclasses.replace(
            mask,
            model_id=model_id(model),
            tensors={n: m & ~large[n] for n, m in mask.tensors.items()},
        ),
    }
    table = drift(model, null_model(model, 1e-3), groups, num_permutations=199)
    rows = [table.find(group, "row_cosine") for group in ("large", "small")]
    assert (1 - rows[1].value) / (1 - rows[0].value) > 10
    for row in rows:
        assert row.ratio == pytest.approx(1.0, abs=0.05)
        assert row.p_value > 0.01


def test_a_set_that_moved_twice_as_far_is_found():
    model = build_wide()
    mask = set_of(model, 0.02)
    source = null_model(model, 1e-3)
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        for name, change in changes(source, model, mask.tensors):
            change[mask.tensors[name]] *= 2
            tuned.get_parameter(name).add_(change)
    row = drift(model, tuned, {"set": mask}, num_permutations=199).find("set", "rms_units")
    assert row.value / row.expected == pytest.approx(2.0, rel=0.05)
    assert row.p_value == 1 / 200
    assert row.value > row.high


# --- p-values


def test_p_values_are_corrected_over_what_answers_one_question(model):
    groups = {"a": set_of(model, seed=1), "b": set_of(model, seed=2), "c": set_of(model, seed=3)}
    table = drift(model, moved(model), groups, num_permutations=99)
    whole = [table.find(group, "norm_ratio") for group in groups]
    assert [row.p_corrected for row in whole] == holm([row.p_value for row in whole])
    layers = [table.find("b", "norm_ratio", layer=layer) for layer in (0, 1)]
    assert [row.p_corrected for row in layers] == holm([row.p_value for row in layers])
    roles = [r for r in table.rows if (r.group, r.measure, r.level) == ("c", "rms_units", "role")]
    assert [row.p_corrected for row in roles] == holm([row.p_value for row in roles])


def test_what_is_not_tested_has_no_p_value(model):
    table = drift(model, moved(model), {"set": set_of(model)}, num_permutations=19)
    for row in table.rows:
        tested = row.measure in TESTED and row.level != "matrix"
        assert (row.p_value is not None) == tested == (row.p_corrected is not None)
        assert (row.low is not None) == tested == (row.high is not None)
    plain = drift(model, moved(model), {"set": set_of(model)}, num_permutations=0)
    assert all(row.p_value is None for row in plain.rows)
    assert [row.value for row in plain.rows] == [row.value for row in table.rows]


def test_the_interval_of_chance_holds_what_is_expected(model):
    table = drift(model, moved(model), {"set": set_of(model)}, num_permutations=499)
    tested = [row for row in table.rows if row.low is not None]
    assert all(row.low <= row.expected <= row.high for row in tested if row.level == "all")
    assert all(row.low <= row.high for row in tested)


def test_too_few_permutations_for_the_correction_are_told(model):
    groups = {"set": set_of(model)}
    notes = drift(model, moved(model), groups, num_permutations=99).notes
    assert any("none of 7 parts can reach 0.05 after correction; take at least 139" in n
               for n in notes)  # fmt: skip
    assert not any("none of" in n for n in drift(model, moved(model), groups).notes)


def test_a_seed_gives_the_same_table_again(model):
    tuned, groups = moved(model), {"set": set_of(model)}
    first, again, other = (
        drift(model, tuned, groups, num_permutations=99, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


@given(st.permutations(["a", "b", "c"]), st.integers(0, 5))
@settings(deadline=None, max_examples=4)
def test_the_order_of_groups_and_weights_changes_nothing(order, seed):
    model = build("llama")
    tuned = moved(model, seed=seed)
    masks = {name: set_of(model, 0.3, seed=index) for index, name in enumerate("abc")}
    turned = {
        name: dataclasses.replace(
            masks[name], tensors=dict(reversed(list(masks[name].tensors.items())))
        )
        for name in order
    }
    straight = drift(model, tuned, masks, num_permutations=0)
    found = drift(model, tuned, turned, num_permutations=0)
    for row in straight.rows:
        other = found.find(row.group, row.measure, layer=row.layer, role=row.role)
        assert other.value == pytest.approx(row.value)
        assert (other.num_weights, other.num_trainable) == (row.num_weights, row.num_trainable)


def test_the_models_are_left_as_they_were(model):
    tuned = moved(model)
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (model, tuned)]
    drift(model, tuned, {"set": set_of(model)}, num_permutations=9)
    for one, state in zip((model, tuned), before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())


# --- tables, curves, progress


def test_rows_are_json_values_with_the_columns_that_are_promised(model):
    table = drift(model, moved(model, names=[Q0]), {"set": set_of(model)}, num_permutations=9)
    rows = table.to_rows()
    assert list(rows[0]) == [
        "level", "group", "layer", "role", "measure", "value", "expected", "low", "high", "spread",
        "num_weights", "num_trainable", "p_value", "p_corrected", "ratio", "trainable_share",
    ]  # fmt: skip
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert {row["measure"] for row in rows} == set(MEASURES)


def test_a_warning_stands_beside_the_papers_measure(model):
    table = drift(model, moved(model), {"set": set_of(model)}, num_permutations=0)
    assert "dominated by the smallest |W|" in MEASURES["relative_change"].warning
    assert f"relative_change: {MEASURES['relative_change'].warning}" in table.notes


def test_a_row_that_is_not_there_is_a_key_error(model):
    table = drift(model, moved(model), {"set": set_of(model)}, num_permutations=0)
    with pytest.raises(KeyError, match="no row of set, norm_ratio, layer 7"):
        table.find("set", "norm_ratio", layer=7)


def test_progress_counts_every_weight_once(model):
    seen = []
    mask = set_of(model)
    drift(model, moved(model), {"set": mask}, num_permutations=0, progress=seen.append)
    assert sum(seen) == mask.num_weights
    assert len(seen) == len(mask.tensors)


def test_a_curve_has_the_drift_of_every_checkpoint(model, tmp_path):
    steps = []
    for step, sd in ((10, 1e-3), (20, 2e-3)):
        folder = save_full(moved(model, sd), tmp_path / f"checkpoint-{step}")
        steps.append(Checkpoint(step=step, path=folder, kind="full"))
    moments = list(drift_curves(model, steps, {"set": set_of(model)}, num_permutations=19, seed=5))
    assert [checkpoint.step for checkpoint, _ in moments] == [10, 20]
    alone = drift(model, steps[1], {"set": set_of(model)}, num_permutations=19, seed=5)
    assert moments[1][1] == alone
    rows = curve_rows(moments)
    assert len(rows) == 2 * len(alone.rows)
    assert rows[0] | {"step": 10, "checkpoint": "checkpoint-10"} == rows[0]
    first, second = (table.find("set", "norm_ratio").value for _, table in moments)
    assert second == pytest.approx(2 * first, rel=1e-3)


# --- bad input


def raises(text, error=UserError):
    return pytest.raises(error, match=text)


def test_a_set_of_another_model_is_refused(model):
    other = set_of(moved(model))
    with raises("the group 'set' is a set of .*, not of the reference", ArtifactMismatchError):
        drift(model, moved(model), {"set": other})
    with raises("the frozen set is a set of .*, not of", ArtifactMismatchError):
        drift(model, moved(model), {"set": set_of(model)}, frozen=other)


def test_a_set_of_a_model_of_another_shape_is_refused(model):
    other = dataclasses.replace(set_of(build("qwen3")), model_id=model_id(model))
    with raises("the set is of another model", ArtifactMismatchError):
        drift(model, moved(model), {"set": other})


def test_a_set_of_rotated_coordinates_is_refused(model):
    mask = dataclasses.replace(set_of(model), space="abcd")
    with raises("is a set of coordinates in basis abcd, not of weights", ArtifactMismatchError):
        drift(model, moved(model), {"set": mask})


def test_groups_of_different_weights_are_refused(model):
    mask = set_of(model)
    part = dataclasses.replace(mask, tensors={Q0: mask.tensors[Q0]})
    with raises("weights are in only one of the two masks", ArtifactMismatchError):
        drift(model, moved(model), {"a": mask, "b": part})


def test_no_group_and_an_empty_group_are_refused(model):
    with raises("no group was given"):
        drift(model, moved(model), {})
    with raises("the group 'none' is empty; take a larger share"):
        drift(model, moved(model), {"none": only(set_of(model))})


@pytest.mark.parametrize("options", [{"num_permutations": -1}, {"seed": -1}])
def test_negative_numbers_are_refused(model, options):
    with raises("num_permutations and seed must be 0 or more"):
        drift(model, moved(model), {"set": set_of(model)}, **options)


def test_a_model_compared_with_itself_is_refused(model):
    with raises("the tuned model and the reference are one object, which the training changed"):
        drift(model, model, {"set": set_of(model)})


def test_a_tuned_model_with_nan_is_refused(model):
    tuned = moved(model)
    with torch.no_grad():
        tuned.get_parameter(Q0)[0, 0] = math.nan
    with raises(f"{Q0} has NaN or infinite weights after the training"):
        drift(model, tuned, {"set": set_of(model)})


def test_a_tuned_model_of_another_architecture_is_refused(model):
    with raises("has no weight .*: they are two different models"):
        drift(model, build("gpt_neox"), {"set": set_of(model)})
    small = copy.deepcopy(model)
    layer = small.model.layers[0].self_attn
    layer.q_proj = torch.nn.Linear(16, 8, bias=False)
    with raises(r"is \(8, 16\) in .* and \(16, 16\) in the reference"):
        drift(model, small, {"set": set_of(model)})


# --- the null model itself


def test_noise_is_the_same_each_time_and_knows_neither_weights_nor_order(model):
    names = list(block_weights(model))
    one = dict(changes(null_model(model, 0.1, seed=3), model, names))
    again = dict(changes(null_model(moved(model), 0.1, seed=3), model, names[::-1]))
    other = dict(changes(null_model(model, 0.1, seed=4), model, names))
    assert all(torch.equal(one[name], again[name]) for name in names)
    assert not torch.equal(one[Q0], other[Q0])


@pytest.mark.parametrize("rank", [None, 3])
def test_noise_has_the_spread_and_the_rank_that_were_asked_for(rank):
    model = build_wide()
    found = dict(changes(null_model(model, 0.01, rank=rank), model, block_weights(model)))
    together = torch.cat([change.flatten() for change in found.values()])
    assert float(together.std()) == pytest.approx(0.01, rel=0.05)
    ranks = {int(torch.linalg.matrix_rank(change)) for change in found.values()}
    assert ranks == ({rank} if rank else {min(c.shape) for c in found.values()})


@pytest.mark.parametrize("family", ["gpt2", "mixtral"])
def test_noise_has_the_shape_of_every_weight(family):
    model = build(family)
    for rank in (None, 2):
        for name, change in changes(null_model(model, 0.1, rank=rank), model, block_weights(model)):
            assert change.shape == model.get_parameter(name).shape


@pytest.mark.parametrize("sd", [0.0, -1.0, math.inf, math.nan])
def test_a_spread_that_is_not_positive_is_refused(model, sd):
    with raises("sd must be positive, got"):
        null_model(model, sd)


def test_a_rank_of_nothing_is_refused(model):
    with raises("rank must be at least 1, got 0"):
        null_model(model, 0.1, rank=0)
