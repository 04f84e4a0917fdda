"""What a track follows, and what was not to change in it."""

import dataclasses
import shutil

import pytest
import torch
from tracked import STEPS, as_tune, make_place, settings

from safetypin.artifacts import UserError, WeightMask, load, read_json, save, write_json, write_mask
from safetypin.intervene import PROTECTIONS
from safetypin.models import block_weights, load_model
from safetypin.stages._track_source import (
    load_tuned,
    open_source,
    reference_name,
    tune_metrics,
    weights_hash,
)

HOW = {"dtype": "float32", "device": "cpu"}
# from which checkpoint on weights are frozen that the training was not to change
FROZEN = {
    "none": (False, False),
    "lora": (False, False),
    "lora-base": (False, False),
    "lora-column": (False, False),
    "warp-lora": (False, False),
    "freeze": (True, True),
    "rewind": (False, True),
    "lora-entry": (True, True),
    "warp": (True, True),  # this one in the original space
    "sn-tune": (True, True),
    "rsn-tune": (True, True),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def tuned(place, tmp_path_factory):
    return as_tune(place, tmp_path_factory.mktemp("tuned"))


def protected(tuned, folder, kind):
    """Return a copy of a run of `tune` under another protection."""
    shutil.copytree(tuned, folder)
    metrics = read_json(folder / "metrics.json")
    metrics["protect"]["kind"] = kind
    write_json(folder / "metrics.json", metrics)
    return folder


def with_earlier(folder, checkpoint):
    """Add an earlier checkpoint to a run of `tune`."""
    place = folder / "training" / "checkpoints" / "checkpoint-5"
    shutil.copytree(checkpoint, place)
    write_json(place / "trainer_state.json", {"global_step": 5, "max_steps": STEPS[-1]})
    return folder


def test_checkpoints_come_by_step_and_the_last_is_what_the_training_gave(place):
    source = open_source(place / "checkpoints")
    assert [one.step for one in source.checkpoints] == list(STEPS)
    assert source.final.step == STEPS[-1]
    assert source.tune is source.protection is None


def test_a_tune_without_checkpoints_says_the_step_of_its_model(tuned):
    assert [one.step for one in open_source(tuned).checkpoints] == [STEPS[-1]]


def test_an_unfinished_checkpoint_is_left_out_and_named(place, tmp_path):
    folder = shutil.copytree(place / "checkpoints", tmp_path / "run")
    weights = folder / "checkpoint-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    source = open_source(folder)
    assert [one.step for one in source.checkpoints] == [5]
    (note,) = source.notes
    assert "checkpoint-10 is left out" in note


def test_only_the_numbers_of_a_tune_count_as_one(tuned, place, tmp_path):
    assert tune_metrics(tuned)["kind"] == "tune"
    assert tune_metrics(place) is None
    write_json(tmp_path / "metrics.json", {"schema": 1, "verdict": {}})
    assert tune_metrics(tmp_path) is None


def test_a_tune_names_its_reference_unless_another_is_given(tuned, place):
    source = open_source(tuned)
    assert reference_name(settings(place, reference=None), source) == str(place / "model")
    assert reference_name(settings(place, reference="smollm2"), source) == "smollm2"
    with pytest.raises(UserError, match=r"--reference"):
        reference_name(settings(place, reference=None), open_source(place / "checkpoints"))


@pytest.mark.parametrize("kind", PROTECTIONS)
def test_frozen_is_what_no_checkpoint_may_differ_in(kind, tuned, place, tmp_path):
    run = protected(tuned, tmp_path / "run", kind)
    source = open_source(with_earlier(run, place / "checkpoints" / "checkpoint-5"))
    first, last = source.checkpoints
    found = [source.frozen(one) for one in (first, last)]
    assert tuple(mask is not None for mask in found) == FROZEN[kind]
    held = load(tuned / "set")
    for name, members in held.tensors.items():
        wanted = ~members if kind in ("sn-tune", "rsn-tune") else members
        assert all(torch.equal(mask.tensors[name], wanted) for mask in found if mask is not None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"space": "abc"}, "coefficients in a rotated basis"), ({"tensors": {}}, "held nothing")],
)
@pytest.mark.parametrize("kind", ["warp", "warp-lora"])
def test_of_a_run_in_a_rotated_basis_no_weight_is_frozen_and_no_set_followed(
    kind, changes, said, tuned, tmp_path
):
    run = protected(tuned, tmp_path / "run", kind)
    mask = load(run / "set")
    assert open_source(run).held == {"control": None, "name": None}
    if "tensors" in changes:
        changes = {"tensors": {n: torch.zeros_like(m) for n, m in mask.tensors.items()}}
    shutil.rmtree(run / "set")
    save(dataclasses.replace(mask, **changes), run / "set")
    source = open_source(run)
    (note,) = source.notes
    assert said in note
    assert source.held is None
    frozen = source.frozen(source.final)
    assert frozen is None or not frozen.num_selected


def test_earlier_adapters_are_followed_as_well(tuned, place, tmp_path):
    for kind in ("lora", "lora-entry"):
        run = with_earlier(protected(tuned, tmp_path / kind, kind), place / "adapter")
        source = open_source(run)
        assert [one.kind for one in source.checkpoints] == ["peft", "full"]
        assert not source.notes


def test_a_run_is_evaluated_only_with_the_same_reference(tuned):
    source = open_source(tuned)
    assert source.is_evaluated(source.tune["model"]["id"])
    assert not source.is_evaluated("model#ffffffffffff")


def test_a_checkpoint_without_tokenizer_takes_that_of_the_reference(place):
    _, tokenizer = load_model(str(place / "model"), device="cpu")
    source = open_source(place / "checkpoints")
    subject = load_tuned(source, str(place / "model"), tokenizer, **HOW)
    assert subject.tokenizer is tokenizer
    assert subject.identity.partition("#")[0] == "checkpoint-10"


def test_an_adapter_is_merged_into_the_reference_and_not_into_what_it_names(place, tmp_path):
    folder = shutil.copytree(place / "adapter", tmp_path / "adapter")
    config = read_json(folder / "adapter_config.json") | {"base_model_name_or_path": "/gone"}
    write_json(folder / "adapter_config.json", config)
    model, tokenizer = load_model(str(place / "model"), device="cpu")
    subject = load_tuned(open_source(folder), str(place / "model"), tokenizer, **HOW)
    before = dict(model.named_parameters())
    changed = {
        name for name, value in subject.model.named_parameters() if (value != before[name]).any()
    }
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "v_proj"}


def test_an_adapter_of_lora_entry_is_added_where_it_is_not_masked(place, tmp_path):
    folder = shutil.copytree(place / "adapter", tmp_path / "adapter")
    path = folder / "adapter_config.json"
    write_json(path, read_json(path) | {"peft_type": "MASKED_LORA"})
    model, tokenizer = load_model(str(place / "model"), device="cpu")
    names = [name for name in block_weights(model) if name.split(".")[-2] in ("q_proj", "v_proj")]
    masks = {name: torch.rand(model.get_parameter(name).shape) < 0.5 for name in names}
    write_mask(folder / "mask.safetensors", WeightMask(tensors=masks, model_id="base"))
    subject = load_tuned(open_source(folder), str(place / "model"), tokenizer, **HOW)
    for name, before in model.named_parameters():
        changed = subject.model.get_parameter(name) != before
        assert torch.equal(changed, ~masks[name] if name in names else torch.zeros_like(changed))


def test_the_hash_of_a_checkpoint_follows_its_weights_alone(place, tmp_path):
    folder = shutil.copytree(place / "checkpoints" / "checkpoint-5", tmp_path / "checkpoint-5")
    first = weights_hash(open_source(folder).final)
    (folder / "training_args.bin").write_bytes(b"anything")
    assert weights_hash(open_source(folder).final) == first
    shutil.copy(place / "checkpoints" / "checkpoint-10" / "model.safetensors", folder)
    assert weights_hash(open_source(folder).final) != first
