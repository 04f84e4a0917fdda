import json
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tracking_toys import build, moved, save_adapter, save_full, set_of, with_adapter

from safetypin.artifacts import RunRecord, UserError, payload_hashes
from safetypin.track import Checkpoint, checkpoints, drift


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A full model, the same in shards, and an adapter."""
    folder, model = tmp_path_factory.mktemp("saved"), build("llama")
    save_full(model, folder / "full")
    save_full(model, folder / "shards", max_shard_size="9KB")
    save_adapter(with_adapter(model), folder / "adapter")
    return folder


@pytest.fixture
def told():
    return []


def put(saved, kind, target, *, step=None, max_steps=None):
    """Copy a saved model, with what the Trainer notes if a step is given."""
    shutil.copytree(saved / kind, target)
    if step is not None:
        state = {"global_step": step, "max_steps": max_steps or step}
        (target / "trainer_state.json").write_text(json.dumps(state))
    return target


def found(folder, told):
    places = checkpoints(folder, tell=told.append)
    return [(one.step, one.path.relative_to(folder).as_posix(), one.kind) for one in places]


def cut(path, share=0.5):
    """Leave the first part of a file, as a full disk or a kill does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


# --- where they are looked for


def test_checkpoints_of_a_tune_run_are_found_from_its_folder_and_end_with_its_model(
    saved, tmp_path, told
):
    places = tmp_path / "training" / "checkpoints"
    for step in (5, 10, 100):
        put(saved, "full", places / f"checkpoint-{step}", step=step, max_steps=103)
    put(saved, "full", tmp_path / "training" / "model")
    expected = [
        (5, "training/checkpoints/checkpoint-5", "full"),
        (10, "training/checkpoints/checkpoint-10", "full"),
        (100, "training/checkpoints/checkpoint-100", "full"),
    ]
    assert found(tmp_path, told) == [*expected, (103, "training/model", "full")]
    assert found(tmp_path / "training", told)[-1] == (103, "model", "full")
    assert [row[0] for row in found(places, told)] == [5, 10, 100]
    assert told == []


def test_the_final_model_takes_the_place_of_the_last_checkpoint(saved, tmp_path, told):
    """After a rewind they differ, and the model is what the training gave."""
    put(saved, "full", tmp_path / "training/checkpoints/checkpoint-7", step=7)
    put(saved, "adapter", tmp_path / "training/model")
    assert found(tmp_path, told) == [(7, "training/model", "peft")]


def test_the_output_folder_of_a_trainer_is_read(saved, tmp_path, told):
    put(saved, "adapter", tmp_path / "out", step=20)
    for step in (8, 16):
        put(saved, "adapter", tmp_path / "out" / f"checkpoint-{step}", step=step, max_steps=20)
    assert found(tmp_path / "out", told) == [
        (8, "checkpoint-8", "peft"), (16, "checkpoint-16", "peft"), (20, ".", "peft"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["step_12", "step12", "global_step12", "12", "ckpt-12", "e-12"])
def test_folders_of_anyone_are_ordered_by_the_number_in_their_names(saved, tmp_path, told, name):
    put(saved, "shards", tmp_path / name)
    put(saved, "full", tmp_path / "step_9")
    assert [(step, kind) for step, _, kind in found(tmp_path, told)] == [(9, "full"), (12, "full")]


def test_the_step_that_the_trainer_noted_goes_before_the_name(saved, tmp_path, told):
    put(saved, "full", tmp_path / "epoch-1", step=500)
    assert found(tmp_path, told) == [(500, "epoch-1", "full")]


@pytest.mark.parametrize("kind", ["full", "shards", "adapter"])
def test_one_model_folder_is_one_checkpoint(saved, kind, told):
    expected = "peft" if kind == "adapter" else "full"
    assert found(saved / kind, told) == [(0, ".", expected)]


def test_other_folders_and_files_are_passed_by(saved, tmp_path, told):
    put(saved, "full", tmp_path / "checkpoint-3")
    (tmp_path / "runs" / "2024").mkdir(parents=True)
    (tmp_path / "2023").mkdir()
    (tmp_path / "notes-7").write_text("hello")
    assert found(tmp_path, told) == [(3, "checkpoint-3", "full")]
    assert told == []


def test_each_is_read_as_the_change_it_is(saved, tmp_path, told):
    model = build("llama")
    save_full(moved(model), tmp_path / "checkpoint-2")
    (one,) = checkpoints(tmp_path, tell=told.append)
    assert one == Checkpoint(step=2, path=tmp_path / "checkpoint-2", kind="full")
    groups = {"set": set_of(model)}
    assert drift(model, one, groups) == drift(model, moved(model), groups)


# --- half-written ones


def half_written(saved, tmp_path, name, kind, spoil):
    put(saved, "full", tmp_path / "checkpoint-1")
    bad = put(saved, kind, tmp_path / name)
    spoil(bad)
    return bad


def forget(*names):
    def spoil(folder):
        for name in names:
            (folder / name).unlink()

    return spoil


def of_the_trainer(folder):
    (folder / "training_args.bin").write_bytes(b"x")


def damage_state(folder):
    (folder / "trainer_state.json").write_text('{"global_step": 9')


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def pickled_adapter(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def lose_a_tensor(folder):
    shard = sorted(folder.glob("model-*"))[1]
    save_file({"other": torch.zeros(1)}, shard)


def lose_a_shard(folder):
    sorted(folder.glob("model-*"))[1].unlink()


def cut_a_shard(folder):
    cut(sorted(folder.glob("model-*"))[1])


def no_weights(folder):
    (folder / "model.safetensors.index.json").write_text("{}")


@pytest.mark.parametrize(
    ("kind", "spoil", "reason"),
    [
        ("full", lambda f: cut(f / "model.safetensors"), "its model.safetensors cannot be read"),
        ("full", lambda f: cut(f / "model.safetensors", 0.0), "model.safetensors cannot be read"),
        ("full", forget("model.safetensors"), "has neither model.safetensors nor"),
        ("full", of_the_trainer, "training_args.bin but no trainer_state.json, which is written"),
        ("full", damage_state, "its trainer_state.json is missing or damaged"),
        ("full", pickled, "its weights are in pytorch_model.bin, a pickle, which is never opened"),
        ("shards", forget("model.safetensors.index.json"), "but no model.safetensors.index.json"),
        ("shards", lambda f: cut(f / "model.safetensors.index.json"), "is missing or damaged"),
        ("shards", no_weights, "its model.safetensors.index.json lists no weights"),
        ("shards", lose_a_shard, "it has no model-00002-of-.*, which its model.safetensors.index"),
        ("shards", cut_a_shard, "its model-00002-of-.* cannot be read"),
        ("shards", lose_a_tensor, "its model-00002-of-.* lacks .* tensors, first"),
        ("adapter", lambda f: cut(f / "adapter_model.safetensors"), "cannot be read"),
        ("adapter", lambda f: cut(f / "adapter_config.json"), "adapter_config.json is missing or"),
        ("adapter", forget("adapter_config.json"), "adapter_model.safetensors but no adapter_con"),
        ("adapter", forget("adapter_model.safetensors"), "it has no adapter_model.safetensors"),
        ("adapter", pickled_adapter, "adapter_model.bin, a pickle"),
    ],
)
def test_a_half_written_checkpoint_is_named_and_left_out(
    saved, tmp_path, told, kind, spoil, reason
):
    bad = half_written(saved, tmp_path, "checkpoint-9", kind, spoil)
    assert found(tmp_path, told) == [(1, "checkpoint-1", "full")]
    (sentence,) = told
    assert sentence.startswith(f"{bad} is left out, as it is not whole: ")
    assert re.search(reason, sentence)


@pytest.mark.parametrize("name", [".saving/checkpoint-9", "tmp-checkpoint-9"])
def test_what_was_being_saved_is_left_out_even_if_its_files_are_whole(saved, tmp_path, told, name):
    half_written(saved, tmp_path, name, "full", lambda _: None)
    assert found(tmp_path, told) == [(1, "checkpoint-1", "full")]
    assert "it was being saved when the training stopped" in told[0]


def test_an_empty_checkpoint_folder_is_named(saved, tmp_path, told):
    put(saved, "full", tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-2").mkdir()
    assert len(found(tmp_path, told)) == 1
    assert "checkpoint-2 is left out" in told[0]


def test_a_half_written_final_model_is_named_and_left_out(saved, tmp_path, told):
    put(saved, "full", tmp_path / "checkpoint-1")
    cut(put(saved, "full", tmp_path / "model") / "model.safetensors")
    assert found(tmp_path, told) == [(1, "checkpoint-1", "full")]
    assert "model is left out" in told[0]


def with_record(folder):
    names = sorted(path.name for path in folder.iterdir())
    RunRecord(
        stage="checkpoint", inputs={}, result={}, files=payload_hashes(folder, names), seconds=0.0,
        environment={},
    ).write(folder)  # fmt: skip


def flip_a_bit(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (flip_a_bit, "its model.safetensors changed since it was written"),
        (forget("config.json"), "its config.json is missing"),
    ],
)
def test_a_checkpoint_of_ours_that_changed_since_is_left_out(saved, tmp_path, told, spoil, reason):
    """safetensors reads a flipped bit without a word."""
    for step in (1, 2):
        with_record(put(saved, "full", tmp_path / f"checkpoint-{step}"))
    spoil(tmp_path / "checkpoint-2")
    assert found(tmp_path, told) == [(1, "checkpoint-1", "full")]
    assert reason in told[0]


def test_a_foreign_run_json_is_no_record_of_ours(saved, tmp_path, told):
    folder = put(saved, "full", tmp_path / "checkpoint-1")
    (folder / "run.json").write_text('{"files": ["a"], "name": "mine"}')
    assert found(tmp_path, told) == [(1, "checkpoint-1", "full")]
    assert told == []


def test_without_a_listener_what_is_left_out_is_a_warning(saved, tmp_path):
    half_written(saved, tmp_path, "checkpoint-9", "full", forget("model.safetensors"))
    with pytest.warns(UserWarning, match="checkpoint-9 is left out, as it is not whole"):
        checkpoints(tmp_path)


# --- nothing to read


def raises(text):
    return pytest.raises(UserError, match=text)


def test_nothing_whole_is_an_error_that_says_why(saved, tmp_path, told):
    cut(put(saved, "full", tmp_path / "checkpoint-1") / "model.safetensors")
    with raises("no checkpoint in .* is whole: .*checkpoint-1 is left out, .* cannot be read"):
        checkpoints(tmp_path, tell=told.append)


def test_a_folder_without_checkpoints_is_an_error_that_says_what_to_do(tmp_path, told):
    with raises("no checkpoint in .*; give the folder of a run of `safetypin tune`"):
        checkpoints(tmp_path, tell=told.append)
    with raises("missing is no folder"):
        checkpoints(tmp_path / "missing", tell=told.append)


def test_a_folder_given_as_a_tuned_model_must_hold_one_whole(saved, tmp_path):
    model = build("llama")
    with raises("holds neither a model nor an adapter"):
        drift(model, tmp_path, {"set": set_of(model)})
    bad = put(saved, "full", tmp_path / "m")
    cut(bad / "model.safetensors")
    with raises("m is not whole: its model.safetensors cannot be read"):
        drift(model, bad, {"set": set_of(model)})
    gone = Checkpoint(step=1, path=tmp_path / "gone", kind="full")
    with raises("gone is not whole: it has neither"):
        drift(model, gone, {"set": set_of(model)})
