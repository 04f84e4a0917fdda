"""Checkpoints: only whole ones are used, whatever happened to the others."""

import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import build
from full_disk import room_for
from intervene.finetuning import DATA, SMALL, mask_of, state_of, tokenizer
from safetypin.artifacts import RunRecord, UserError
from safetypin.intervene import Freeze, Full, Lora, MaskedLora, finetune
from safetypin.intervene import _trainer as trainer_module

UP = "model.layers.0.mlp.up_proj.weight"
SAVED = dataclasses.replace(SMALL, max_steps=6, save_steps=2)
SCRIPT = Path(__file__).with_name("killed.py")


def run(out, protect=None, model=None, on_step=None, training=SAVED):
    model = model or build("llama")
    return finetune(
        model,
        tokenizer(),
        DATA,
        protect=protect or Full(),
        training=training,
        out=out,
        on_step=on_step,
    )


def interrupted(out, at, protect=None, training=SAVED):
    def stop(step, of, loss):
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(out, protect, on_step=stop, training=training)


def names(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir() if path.is_dir())


def assert_equal_states(one, other):
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def whole():
    """The model that a run gives which nothing disturbs."""
    return run(None)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The folder of a run that was stopped at step 5, with two whole checkpoints."""
    out = tmp_path_factory.mktemp("half")
    interrupted(out, at=5)
    return out


@pytest.fixture
def stopped(half, tmp_path):
    return Path(shutil.copytree(half, tmp_path / "out"))


def test_a_checkpoint_is_an_ordinary_model_folder_with_a_record(stopped):
    assert names(stopped) == ["checkpoint-2", "checkpoint-4"]
    folder = stopped / "checkpoints" / "checkpoint-4"
    record = RunRecord.read(folder)
    assert (record.stage, record.result) == ("checkpoint", {"step": 4})
    assert {path.name for path in folder.iterdir()} == {*record.files, "run.json"}
    assert "training_args.bin" not in record.files
    assert AutoModelForCausalLM.from_pretrained(folder).get_parameter(UP).shape == (24, 16)
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == 4


def test_a_run_goes_on_at_the_newest_checkpoint_and_ends_as_if_undisturbed(stopped, whole, caplog):
    steps = []
    model = run(stopped, on_step=lambda step, of, loss: steps.append(step))
    assert steps == [5, 6]
    assert_equal_states(model, whole)
    assert names(stopped) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert f"going on from {stopped / 'checkpoints' / 'checkpoint-4'}" in caplog.text


def test_a_finished_run_is_not_trained_again(stopped, whole):
    run(stopped)
    steps = []
    model = run(stopped, on_step=lambda *told: steps.append(told))
    assert steps == []
    assert_equal_states(model, whole)


def test_a_run_that_ends_inside_an_epoch_is_not_trained_again(tmp_path):
    training = dataclasses.replace(SAVED, max_steps=None, epochs=0.6)
    first = run(tmp_path, training=training)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]
    assert_equal_states(run(tmp_path, training=training), first)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_truncated_checkpoint_is_named_and_left_out(stopped, whole, caplog, file):
    newest = stopped / "checkpoints" / "checkpoint-4"
    cut_in_half(newest / file)
    assert_equal_states(run(stopped), whole)
    assert f"the checkpoint {newest} is left out: {newest / file} changed" in caplog.text
    assert f"going on from {newest.with_name('checkpoint-2')}" in caplog.text
    RunRecord.read(newest)  # made anew on the way


def test_a_checkpoint_with_a_flipped_bit_is_left_out(stopped, whole, caplog):
    path = stopped / "checkpoints" / "checkpoint-4" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert_equal_states(run(stopped), whole)
    assert "checkpoint-4 is left out" in caplog.text


@pytest.mark.parametrize("missing", ["run.json", "optimizer.pt"])
def test_a_checkpoint_without_one_of_its_files_is_left_out(stopped, whole, caplog, missing):
    (stopped / "checkpoints" / "checkpoint-4" / missing).unlink()
    assert_equal_states(run(stopped), whole)
    assert "checkpoint-4 is left out" in caplog.text


def test_without_a_whole_checkpoint_the_run_starts_anew(stopped, whole):
    for folder in (stopped / "checkpoints").glob("checkpoint-*"):
        cut_in_half(folder / "model.safetensors")
    steps = []
    assert_equal_states(run(stopped, on_step=lambda step, *_: steps.append(step)), whole)
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("weights", marks=pytest.mark.slow),
        "optimizer",
        pytest.param("record", marks=pytest.mark.slow),
    ],
)
def test_a_kill_in_the_middle_of_a_save_costs_that_checkpoint_only(tmp_path, whole, caplog, moment):
    command = [sys.executable, str(SCRIPT), str(tmp_path), moment]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == -signal.SIGKILL, answer.stderr
    assert names(tmp_path) == [".saving", "checkpoint-2"]
    rest = (tmp_path / "checkpoints" / ".saving").iterdir()
    assert [path.name for path in rest] == ["checkpoint-4"]
    assert_equal_states(run(tmp_path), whole)
    assert "checkpoint-4 was being saved when the run was stopped; it is not whole" in caplog.text
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def test_the_log_has_every_step_once_after_a_resume(stopped):
    run(stopped)
    rows = [json.loads(line) for line in (stopped / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        assert row.keys() == {"step", "loss", "learning_rate", "grad_norm"}
    assert [row["learning_rate"] for row in rows] == pytest.approx(
        [1e-2 * (6 - step) / 6 for step in range(6)]
    )


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


def test_without_save_steps_the_first_checkpoint_comes_after_a_minute_and_each_next_after_ten(
    tmp_path, monkeypatch
):
    clock, seen = Clock(), {}
    monkeypatch.setattr(trainer_module, "time", clock)
    # seconds at the end of each step; a save is over by the end of the next one
    ends = {2: 59, 3: 61, 4: 120, 5: 719, 6: 721, 7: 722}

    def on_step(step, of, loss):
        seen[step] = names(tmp_path)
        clock.now = 1000 + ends.get(step + 1, 0)
        if step == 7:
            raise KeyboardInterrupt

    training = dataclasses.replace(SAVED, save_steps=None, max_steps=8)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, on_step=on_step, training=training)
    assert [seen[step] for step in range(1, 8)] == [
        *[[]] * 3,
        *[["checkpoint-3"]] * 3,
        ["checkpoint-6"],
    ]


def test_without_save_steps_only_what_is_needed_to_go_on_is_kept(tmp_path, monkeypatch):
    training = dataclasses.replace(SAVED, save_steps=None)
    interrupted(tmp_path, at=5, training=training)
    assert names(tmp_path) == [], "a few seconds are not worth a checkpoint"
    for seconds in ("FIRST_SAVE_SECONDS", "SAVE_SECONDS"):
        monkeypatch.setattr(trainer_module, seconds, 0.0)
    interrupted(tmp_path, at=5, training=training)
    assert names(tmp_path) == ["checkpoint-4"]
    steps = []
    run(tmp_path, training=training, on_step=lambda step, *_: steps.append(step))
    assert steps == [5, 6]


@pytest.mark.parametrize("room", [20_000, 60_000])
def test_a_full_disk_is_told_and_nothing_half_written_is_left(stopped, whole, room):
    with room_for(room), pytest.raises(UserError) as caught:
        run(stopped)
    target = stopped / "checkpoints" / "checkpoint-6"
    assert str(caught.value).startswith(f"the disk is full: {target} could not be written.")
    assert names(stopped) == ["checkpoint-2", "checkpoint-4"]
    assert_equal_states(run(stopped), whole)


# --- a loss that is no number


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loss_that_turns_nan_stops_the_run_at_its_step(tmp_path, precision):
    model = build("llama")

    def spoil(step, of, loss):
        if step == 3:
            with torch.no_grad():
                model.get_parameter(UP)[0, 0] = math.nan

    training = dataclasses.replace(SAVED, precision=precision)
    with pytest.raises(UserError) as caught:
        run(tmp_path, model=model, on_step=spoil, training=training)
    kept = tmp_path / "checkpoints" / "checkpoint-2"
    assert str(caught.value) == (
        f"the loss is nan at step 4 of 6, so the training stopped there; the last good checkpoint "
        f"is {kept}. Lower --learning-rate (it is 0.01), add --warmup-ratio 0.1, or use "
        "--precision fp32"
    )
    assert names(tmp_path) == ["checkpoint-2"]
    RunRecord.read(kept)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_weights_that_overflow_are_never_saved(tmp_path):
    training = dataclasses.replace(
        SAVED, save_steps=1, learning_rate=1e38, optimizer="sgd", max_grad_norm=0.0
    )
    model = build("llama")
    model.get_parameter(UP).register_hook(lambda gradient: 1e6 * gradient)
    with pytest.raises(UserError) as caught:
        run(tmp_path, model=model, training=training)
    assert str(caught.value).startswith(
        "the largest trained weight is inf at step 1 of 6, so the training stopped there; no "
        "checkpoint had been saved yet"
    )
    assert names(tmp_path) == []


def test_without_a_folder_the_error_says_that_there_is_no_checkpoint():
    model = build("llama")
    with torch.no_grad():
        model.get_parameter(UP)[0, 0] = math.nan
    with pytest.raises(UserError, match=r"at step 1 of 6.*no checkpoint had been saved yet"):
        run(None, model=model)


def test_no_step_is_taken_with_a_gradient_that_is_no_number():
    model = build("llama")
    before = state_of(model)
    weight = model.get_parameter(UP)
    weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(UserError, match=r"the size of the gradient is (nan|inf) at step 1 of 6"):
        run(None, model=model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


# --- the adapters' checkpoints


@pytest.mark.parametrize("mode", ["plain", "column", "entry"])
def test_the_checkpoint_of_adapters_holds_them_alone(tmp_path, mode):
    model = build("llama")
    protect = Lora() if mode == "plain" else MaskedLora(mask_of(model, share=0.02), mode)
    run(tmp_path, protect, model=model)
    folder = tmp_path / "checkpoints" / "checkpoint-6"
    found = {path.name for path in folder.glob("*.safetensors")}
    masks = {"mask.safetensors"} if mode == "entry" else set()
    assert found == {"adapter_model.safetensors"} | masks
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert config["peft_type"] == ("MASKED_LORA" if mode == "entry" else "LORA")


def test_frozen_weights_are_frozen_in_every_checkpoint(tmp_path):
    model = build("llama")
    before, mask = state_of(model), mask_of(model)
    run(tmp_path, Freeze(mask), model=model)
    for step in (2, 4, 6):
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / f"checkpoints/checkpoint-{step}")
        for name, members in mask.tensors.items():
            assert torch.equal(saved.get_parameter(name)[members], before[name][members])


def test_settings_that_change_no_result_may_change_in_between(stopped):
    changed = dataclasses.replace(SAVED, save_steps=1, gradient_checkpointing=True)
    run(stopped, training=changed)
    assert names(stopped)[-2:] == ["checkpoint-5", "checkpoint-6"]
