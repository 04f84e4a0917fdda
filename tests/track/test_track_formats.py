"""One change, many forms: whatever a tuned model is kept in, the table is the same."""

import json
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tracking_toys import (
    Q0,
    UP1,
    build,
    largest,
    merged,
    moved,
    save_adapter,
    save_full,
    set_of,
    weights_of,
    with_adapter,
)

from reference.tracking import lora_change
from safetypin.artifacts import UserError, WeightMask, write_mask
from safetypin.models import block_weights, load_model, model_id
from safetypin.track import MEASURES, changes, changes_at, drift, open_reference
from toys import save_llama

DOWN0 = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def model():
    return build("llama")


def raises(text):
    return pytest.raises(UserError, match=text)


def numbers(table):
    """All that is in a table but p-values, which hang on the last digit of a sum."""
    return {
        (row.group, row.layer, row.role, row.measure): (row.value, row.expected, row.num_trainable)
        for row in table.rows
    }


def assert_same_table(one, other, rel=2e-3):
    """Equal but for rounding: a merge may lose the smallest of some hundred changes."""
    first, second = numbers(one), numbers(other)
    assert first.keys() == second.keys()
    for key, (value, expected, num_trainable) in first.items():
        lost = 0.01 if key[-1] == "changed_share" else 0.0
        assert second[key][2] == num_trainable, key
        for found, wanted in zip(second[key], (value, expected), strict=False):
            assert (found is None) == (wanted is None), key
            assert found is None or found == pytest.approx(wanted, rel=rel, abs=lost), key


# --- full, sharded, adapter, in memory


def adapter_options():
    """Ranks, scales and patterns of an adapter."""
    return st.fixed_dictionaries(
        {"r": st.integers(1, 5), "lora_alpha": st.sampled_from([1, 8, 16])},
        optional={
            "use_rslora": st.booleans(),
            "rank_pattern": st.just({"q_proj": 2, "layers.1.mlp.down_proj": 4}),
            "alpha_pattern": st.just({"down_proj": 3, r".*\.0\.self_attn\.q_proj": 6}),
            "target_modules": st.sampled_from([["q_proj", "v_proj"], "all-linear"]),
        },
    )


@given(adapter_options(), st.integers(0, 100))
@settings(deadline=None, max_examples=8)
def test_the_same_change_gives_the_same_table_in_every_form(tmp_path_factory, options, seed):
    folder, model = tmp_path_factory.mktemp("forms"), build("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of rslora together with patterns
        adapted = with_adapter(model, seed=seed, **options)
    tuned = merged(adapted)
    forms = [
        adapted,
        save_adapter(adapted, folder / "adapter", base_model_name_or_path=""),
        save_full(tuned, folder / "full"),
        save_full(tuned, folder / "shards", max_shard_size="9KB"),
    ]
    assert len(list((folder / "shards").glob("model-*"))) > 2
    groups = {"set": set_of(model, 0.3), "large": largest(model, 0.3)}
    expected = drift(model, tuned, groups, num_permutations=0)
    assert any(row.num_trainable for row in expected.rows)
    for form in forms:
        assert_same_table(drift(model, form, groups, num_permutations=0), expected)


def test_the_change_of_an_adapter_is_s_b_a(model, tmp_path):
    adapted = with_adapter(model, r=3, lora_alpha=7)
    folder = save_adapter(adapted, tmp_path / "a", base_model_name_or_path="")
    layer = adapted.get_base_model().get_submodule("model.layers.0.self_attn.q_proj")
    left, right = (part["default"].weight.detach() for part in (layer.lora_B, layer.lora_A))
    for tuned in (adapted, folder):
        found = dict(changes(tuned, model, block_weights(model)))
        assert torch.allclose(found[Q0].double(), lora_change(left, right, 7 / 3), atol=1e-7)
        assert set(found) == {name for name in found if "q_proj" in name or "down_proj" in name}


def test_rank_stabilised_adapters_are_scaled_by_the_root_of_the_rank(model, tmp_path):
    adapted = with_adapter(model, r=4, lora_alpha=8, use_rslora=True)
    folder = save_adapter(adapted, tmp_path / "a", base_model_name_or_path="")
    plain = save_adapter(adapted, tmp_path / "b", base_model_name_or_path="", use_rslora=False)
    one, other = (dict(changes(f, model, [Q0]))[Q0] for f in (folder, plain))
    assert torch.allclose(one, other * (8 / 2) / (8 / 4))
    layer = adapted.get_base_model().get_submodule(Q0.removesuffix(".weight"))
    assert torch.allclose(one, layer.get_delta_weight("default"))


def test_transposed_weights_take_an_adapter_the_right_way_round(tmp_path):
    model = build("gpt2")
    adapted = with_adapter(model, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    folder = save_adapter(adapted, tmp_path / "a", base_model_name_or_path="")
    tuned, groups = merged(adapted), {"set": set_of(model, 0.3)}
    expected = drift(model, tuned, groups, num_permutations=0)
    assert_same_table(drift(model, folder, groups, num_permutations=0), expected)
    assert_same_table(drift(model, adapted, groups, num_permutations=0), expected)
    before, after = weights_of(model, groups["set"]), weights_of(tuned, groups["set"])
    for name, change in changes(folder, model, block_weights(model)):
        assert torch.allclose(change.double(), after[name] - before[name], atol=1e-6)


def test_the_changes_at_listed_entries_are_those_of_the_whole_matrix(tmp_path):
    for family, options in (("llama", {}), ("gpt2", {"target_modules": ["c_attn"]})):
        model = build(family)
        adapted = with_adapter(model, fan_in_fan_out=family == "gpt2", **options)
        folder = save_adapter(adapted, tmp_path / family, base_model_name_or_path="")
        mask = set_of(model, 0.1)
        for tuned in (folder, merged(adapted)):
            whole = dict(changes(tuned, model, mask.tensors))
            listed = dict(changes_at(tuned, model, mask))
            assert listed.keys() == whole.keys()
            for name, values in listed.items():
                assert torch.allclose(values, whole[name][mask.tensors[name]], atol=1e-7)


def test_two_active_adapters_add_up(model):
    adapted = with_adapter(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.add_adapter("other", adapted.peft_config["default"])
    adapted.base_model.set_adapter(["default", "other"])
    expected = drift(model, merged(adapted), {"set": set_of(model)}, num_permutations=0)
    found = drift(model, adapted, {"set": set_of(model)}, num_permutations=0)
    assert_same_table(found, expected)


def test_an_adapter_put_into_the_reference_itself_is_measured_against_its_base(model):
    """`finetune` puts adapters into the model that it is given."""
    groups, tuned = {"set": set_of(model)}, with_adapter(model)
    expected = drift(model, tuned, groups, num_permutations=0)
    base = tuned.get_base_model()
    assert_same_table(drift(base, tuned, groups, num_permutations=0), expected)


def test_experts_in_one_parameter_may_carry_an_adapter_in_memory():
    model = build("mixtral")
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapted = with_adapter(model, target_modules=["q_proj"], target_parameters=names)
    groups = {"set": set_of(model, 0.3)}
    expected = drift(model, merged(adapted), groups, num_permutations=0)
    assert_same_table(drift(model, adapted, groups, num_permutations=0), expected)
    row = expected.find("set", "rms_units", layer=0, role="mlp.experts.gate_up_proj")
    assert row.value > 0


def test_a_matrix_that_was_trained_whole_beside_an_adapter_is_seen(model, tmp_path):
    adapted = with_adapter(model, modules_to_save=["up_proj"])
    with torch.no_grad():
        saved = adapted.get_base_model().get_submodule(UP1.removesuffix(".weight"))
        saved.modules_to_save["default"].weight.add_(0.1)
    folder = save_adapter(adapted, tmp_path / "a", base_model_name_or_path="")
    found = dict(changes(folder, model, block_weights(model)))
    assert torch.allclose(found[UP1], torch.full_like(found[UP1], 0.1), atol=1e-6)


# --- folders of other forms


def test_a_reference_in_a_folder_is_read_as_one_in_memory(model, tmp_path):
    folder = save_full(model, tmp_path / "base", max_shard_size="9KB")
    tuned, groups = moved(model), {"set": set_of(model)}
    expected = drift(model, tuned, groups, num_permutations=19)
    assert drift(folder, tuned, groups, num_permutations=19) == expected
    assert drift(str(folder), tuned, groups, num_permutations=19) == expected
    assert open_reference(folder).fingerprint == model_id(model).rpartition("#")[2]


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_experts_that_are_stored_one_by_one_are_put_together(family, tmp_path):
    model = build(family)
    folders = [save_full(m, tmp_path / n) for m, n in ((model, "before"), (moved(model), "after"))]
    stored = load_file(folders[0] / "model.safetensors")
    fused = [name for name in block_weights(model) if name.endswith("experts.gate_up_proj")]
    assert fused
    assert not set(fused) & set(stored)  # else nothing is tried here
    groups = {"set": set_of(model)}
    expected = drift(model, moved(model), groups, num_permutations=0)
    assert_same_table(drift(*folders, groups, num_permutations=0), expected)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_checkpoint_of_the_model_without_its_head_is_read(family, tmp_path):
    model = build(family)
    tuned = moved(model)
    save_full(tuned.base_model, tmp_path / "headless")
    stored = load_file(tmp_path / "headless" / "model.safetensors")
    assert not any(name.startswith(f"{model.base_model_prefix}.") for name in stored)
    groups = {"set": set_of(model)}
    found = drift(model, tmp_path / "headless", groups, num_permutations=0)
    assert_same_table(found, drift(model, tuned, groups, num_permutations=0))


def test_tied_embeddings_need_no_head_in_the_file(tmp_path):
    torch.manual_seed(0)
    model = build("gemma3")
    assert model.config.tie_word_embeddings
    before = save_full(model, tmp_path / "before")
    assert "lm_head.weight" not in load_file(before / "model.safetensors")
    groups = {"set": set_of(model)}
    found = drift(before, save_full(moved(model), tmp_path / "after"), groups, num_permutations=0)
    assert_same_table(found, drift(model, moved(model), groups, num_permutations=0))


def test_a_peft_folder_and_what_load_model_makes_of_it_are_one_change(tmp_path):
    base = save_llama(tmp_path / "base")
    adapted = with_adapter(base)
    save_adapter(adapted, tmp_path / "a", base_model_name_or_path=str(tmp_path / "base"))
    tuned, _ = load_model(str(tmp_path / "a"), dtype="float32", device="cpu")
    groups = {"set": set_of(base, 0.3)}
    found = drift(tmp_path / "base", tmp_path / "a", groups, num_permutations=0)
    assert_same_table(found, drift(base, tuned, groups, num_permutations=0))
    assert not any("another base" in note or "could not be checked" in note for note in found.notes)


# --- what rounding hides


def test_merging_in_bfloat16_hides_most_small_changes_and_that_is_told(tmp_path):
    """E52: at sd 3e-5, 68 % of all changes and nearly all of large weights are lost."""
    model = build("llama", torch.bfloat16).float()  # values that bfloat16 can hold
    adapted = with_adapter(model, scale=1.0, r=8)
    with torch.no_grad():
        layers = [m for m in adapted.modules() if hasattr(m, "lora_B")]
        for layer in layers:
            size = layer.get_delta_weight("default").std()
            layer.lora_B["default"].weight.mul_(3e-4 / size)
    groups = {"all": set_of(model, 0.5), "large": largest(model, 0.02)}
    exact = drift(model, adapted, groups, num_permutations=0)
    rounded = save_full(merged(adapted).bfloat16(), tmp_path / "rounded")
    table = drift(model, rounded, groups, num_permutations=0)
    place = {"layer": 0, "role": "self_attn.q_proj"}
    for group in groups:
        assert exact.find(group, "changed_share", **place).value == 1.0
    assert table.find("all", "changed_share", **place).value < 0.6
    assert table.find("large", "changed_share", **place).value < 0.1
    assert table.find("large", "rms_units", **place).value < 0.1 * (
        exact.find("large", "rms_units", **place).value
    )
    assert any("is stored in bfloat16: changes of less than about 0.4% of a weight are lost" in n
               for n in table.notes)  # fmt: skip
    assert not any("stored in" in note for note in exact.notes)


def test_a_tuned_model_coarser_than_its_reference_is_told(model, tmp_path):
    folder = save_full(moved(model).bfloat16(), tmp_path / "coarse")
    notes = drift(model, folder, {"set": set_of(model)}, num_permutations=0).notes
    assert any("the reference is finer: rounding alone moves weights by up to 0.4%" in n
               for n in notes)  # fmt: skip


def test_the_drift_of_a_tiny_adapter_is_exact(model, tmp_path):
    """E52: an adapter scaled by 1e-6 has the norm of s B A to 1e-6."""
    adapted = with_adapter(model, scale=1e-6)
    folder = save_adapter(adapted, tmp_path / "a", base_model_name_or_path="")
    mask = WeightMask(
        tensors={n: torch.full(w.weight.shape, n == Q0) for n, w in block_weights(model).items()},
        model_id=model_id(model),
    )
    layer = adapted.get_base_model().get_submodule(Q0.removesuffix(".weight"))
    left, right = (part["default"].weight.detach() for part in (layer.lora_B, layer.lora_A))
    expected = lora_change(left, right, 5 / 3).norm() / model.get_parameter(Q0).double().norm()
    for tuned in (folder, adapted):
        found = drift(model, tuned, {"set": mask}, num_permutations=0).find("set", "norm_ratio")
        assert found.value == pytest.approx(float(expected.detach()), rel=1e-6)


# --- protections that an adapter's folder tells of


def entry_folder(model, tmp_path, mask):
    """What `safetypin tune --protect lora-entry` leaves as a checkpoint."""
    adapted = with_adapter(model)
    folder = save_adapter(
        adapted, tmp_path / "entry", base_model_name_or_path="", peft_type="MASKED_LORA"
    )
    names = [name for name, _ in changes(adapted, model, block_weights(model))]
    inside = {name: mask.tensors[name] for name in names}
    write_mask(folder / "mask.safetensors", WeightMask(tensors=inside, model_id="base"))
    return adapted, folder


def test_masked_entries_of_a_lora_entry_checkpoint_are_not_trainable(model, tmp_path):
    mask = set_of(model, 0.2)
    adapted, folder = entry_folder(model, tmp_path, mask)
    found, plain = (dict(changes(t, model, block_weights(model))) for t in (folder, adapted))
    for name, change in found.items():
        inside = mask.tensors[name]
        assert torch.equal(change[inside], torch.zeros(int(inside.sum())))
        assert torch.allclose(change[~inside], plain[name][~inside])
    table = drift(model, folder, {"masked": mask, "other": set_of(model, seed=5)})
    assert table.find("masked", "rms_units").value is None
    assert 0 < table.find("other", "rms_units").trainable_share < 1


def test_a_lora_entry_checkpoint_without_its_mask_is_not_used(model, tmp_path):
    _, folder = entry_folder(model, tmp_path, set_of(model))
    (folder / "mask.safetensors").unlink()
    with raises("the adapter .* is not whole: .*mask.safetensors cannot be read"):
        drift(model, folder, {"set": set_of(model)})


def test_columns_that_an_adapter_was_kept_off_are_not_trainable(model, tmp_path):
    adapted = with_adapter(model, target_modules=["q_proj"])
    with torch.no_grad():
        for layer in adapted.modules():
            if hasattr(layer, "lora_A"):
                layer.lora_A["default"].weight[:, :4] = 0.0
    folder = save_adapter(adapted, tmp_path / "a", base_model_name_or_path="")
    mask = set_of(model, 0.5)
    outside = sum(int(m[:, 4:].sum()) for n, m in mask.tensors.items() if "q_proj" in n)
    for tuned in (folder, adapted):
        row = drift(model, tuned, {"set": mask}).find("set", "rms_units")
        assert row.num_trainable == outside


# --- adapters that are refused


def test_an_adapter_for_a_base_of_another_shape_is_refused(model, tmp_path):
    wide = build("qwen3")
    folder = save_adapter(with_adapter(wide), tmp_path / "a", base_model_name_or_path="")
    with raises(r"is for another base: its change of .* is \(32, 16\), the weight of the ref"):
        drift(model, folder, {"set": set_of(model)})
    other = build("gpt2")
    with raises("is for another base: the reference .* has no model.layers.0.*, which it changes"):
        drift(other, folder, {"set": set_of(other)})


def test_an_adapter_for_another_base_of_the_same_shape_is_refused(model, tmp_path):
    other = save_full(moved(model), tmp_path / "other")
    folder = save_adapter(with_adapter(model), tmp_path / "a", base_model_name_or_path=str(other))
    model.name_or_path = "mine"
    with raises("is for another base: it says .*other, the reference is mine; give --reference"):
        drift(model, folder, {"set": set_of(model)})
    copied = save_full(model, tmp_path / "copy of it")
    save_adapter(with_adapter(model), folder, base_model_name_or_path=str(copied))
    assert drift(model, folder, {"set": set_of(model)}, num_permutations=0).rows


def test_two_folders_of_one_name_are_compared_by_their_weights(model, tmp_path):
    ours, other = (tmp_path / run / "training" / "model" for run in ("a", "b"))
    save_full(model, ours)
    save_full(moved(model), other)
    model.name_or_path = str(ours)
    folder = save_adapter(with_adapter(model), tmp_path / "x", base_model_name_or_path=str(other))
    with raises("is for another base: it says .*b/training/model, the reference is .*a/training"):
        drift(model, folder, {"set": set_of(model)})


@pytest.mark.parametrize(
    ("base", "ours", "verdict"),
    [
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf", "refused"),
        ("meta-llama/Llama-2-7b-chat-hf", "NousResearch/llama-2-7b-chat-hf@main", "taken"),
        ("smollm2", "smollm2-aligned", "refused"),
        ("meta-llama/Llama-2-7b-chat-hf", "/data/llama", "unsure"),
        ("/data/llama", "meta-llama/Llama-2-7b-chat-hf", "unsure"),
        ("/data/llama", "/elsewhere/llama/", "unsure"),
    ],
)
def test_names_tell_bases_apart_where_they_are_names_of_one_model(
    model, tmp_path, base, ours, verdict
):
    folder = save_adapter(with_adapter(model), tmp_path / "a", base_model_name_or_path=base)
    model.name_or_path = ours
    if verdict == "refused":
        with raises("is for another base: it says"):
            drift(model, folder, {"set": set_of(model)})
        return
    notes = drift(model, folder, {"set": set_of(model)}, num_permutations=0).notes
    assert any("could not be checked" in note for note in notes) == (verdict == "unsure")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"peft_type": "IA3"}, "is of type IA3, not LORA; merge it in float32"),
        ({"use_dora": True}, "is no plain LoRA: it has use_dora; merge it"),
        ({"alora_invocation_tokens": [1]}, "it has alora_invocation_tokens"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "it has target_parameters"),
        ({"layer_replication": [[0, 2]]}, "it has layer_replication"),
        ({"init_lora_weights": "pissa_niter_4"}, "began as pissa_niter_4, which also changes the"),
        ({"init_lora_weights": "OLoRA"}, "began as olora, which also changes the base"),
    ],
)
def test_what_is_not_s_b_a_is_refused_with_what_to_do(model, tmp_path, settings, text):
    folder = save_adapter(with_adapter(model), tmp_path / "a", **settings)
    with raises(text):
        drift(model, folder, {"set": set_of(model)})


def test_dora_in_memory_is_refused(model):
    with raises("is no plain LoRA: it has use_dora"):
        drift(model, with_adapter(model, use_dora=True), {"set": set_of(model)})


def test_a_merged_adapter_in_memory_is_refused(model):
    adapted = with_adapter(model)
    adapted.merge_adapter()
    with raises("is merged into its base for now; call model.unmerge_adapter"):
        drift(model, adapted, {"set": set_of(model)})


def test_adapters_around_another_base_are_refused(model):
    with raises("the adapters are around another base: .* is not that of the reference"):
        drift(model, with_adapter(moved(model)), {"set": set_of(model)})


def test_an_adapter_without_matrices_is_refused(model, tmp_path):
    folder = save_adapter(with_adapter(model), tmp_path / "a", base_model_name_or_path="")
    save_file({"lm_head.bias": torch.zeros(3)}, folder / "adapter_model.safetensors")
    with raises("holds no LoRA matrices"):
        drift(model, folder, {"set": set_of(model)})


def test_an_adapter_is_no_reference(model, tmp_path):
    folder = save_adapter(with_adapter(model), tmp_path / "a")
    with raises("is an adapter; give the model that the training began with"):
        drift(folder, model, {"set": set_of(model)})


# --- full checkpoints that are refused


def test_a_quantised_checkpoint_is_refused(model, tmp_path):
    folder = save_full(model, tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    save_file(state | {Q0: state[Q0].to(torch.int8)}, folder / "model.safetensors")
    with raises("is quantised .torch.int8. in .*; give the model as it was trained"):
        drift(model, folder, {"set": set_of(model)})
    with raises("of the reference .* is quantised or not in memory"):
        list(changes(moved(model), folder, [Q0]))


def test_a_checkpoint_without_one_of_the_weights_is_of_another_model(model, tmp_path):
    folder = save_full(model, tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    del state[DOWN0]
    save_file(state, folder / "model.safetensors")
    with raises(f"has no weight {DOWN0}, which the reference .* has: they are two different"):
        drift(model, folder, {"set": set_of(model)})


def test_a_reference_folder_without_a_config_is_refused(model, tmp_path):
    folder = save_full(model, tmp_path / "m")
    (folder / "config.json").unlink()
    with raises("the reference .* is not whole: its config.json makes no model"):
        drift(folder, moved(model), {"set": set_of(model)})


def test_a_reference_folder_of_an_unknown_kind_is_refused(model, tmp_path):
    folder = save_full(model, tmp_path / "m")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "no such"}))
    with raises("the reference .* is not whole: its config.json makes no model"):
        drift(folder, moved(model), {"set": set_of(model)})


def test_a_weight_that_the_reference_has_not_is_refused(model):
    with raises("has no weight lm.w"):
        list(changes(moved(model), model, ["lm.w"]))
    mask = WeightMask(tensors={Q0: torch.ones(2, 2, dtype=torch.bool)}, model_id="m")
    with raises(rf"has no weight {Q0} of shape \(2, 2\)"):
        list(changes_at(moved(model), model, mask))


def test_changes_of_a_full_model_are_differences_in_float32(model):
    tuned = moved(model, names=[Q0])
    ((name, change),) = changes(tuned, model, block_weights(model))
    assert name == Q0
    assert torch.equal(change, tuned.get_parameter(Q0) - model.get_parameter(Q0))
    assert not math.isclose(float(change.abs().max()), 0.0)
    assert set(MEASURES) >= {"rms_units", "relative_change"}
