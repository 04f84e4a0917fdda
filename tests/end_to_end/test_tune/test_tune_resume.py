"""Killed, changed, run again: the same command goes on, and ends the same."""

import copy
import json
import os
import shutil
import signal

import pytest

from end_to_end.comparing import read_metrics
from end_to_end.nursery import path_of
from safetypin.artifacts import UserError
from safetypin.stages import _tune_training, tune

HOW = {"save_steps": 4, "gate": "asr<=1"}  # of the finished tuning


def stable(metrics):
    """Return what must be the same however often the run was killed."""
    found = copy.deepcopy(metrics)
    found.pop("run")
    found["training"].pop("seconds")
    return found


def leftovers(folder):
    """Return what only an unfinished run leaves."""
    found = [".inputs", ".holder.json", "*.part", "*.discarded", ".saving", "*.unfinished"]
    return [path for pattern in [*found, "scores-*"] for path in folder.rglob(pattern)]


def model_bytes(out):
    return (out / "training" / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_killed_once_at_every_write_it_ends_with_the_same_metrics(
    nursery, tune_words, tuned, tmp_path
):
    out, book, log = tmp_path / "out", tmp_path / "kills", tmp_path / "log"
    num_kills = 0
    while code := nursery.run(*tune_words(out, **HOW), log=log, trap={"once": str(book)}):
        assert code == -signal.SIGKILL, log.read_text()
        num_kills += 1
        assert num_kills < 150
    kills = book.read_text().splitlines()
    assert num_kills == len(kills)
    assert {
        "calibration-safety/responses-calibration.jsonl line 4",
        "scores-safety/.scores.safetensors",
        "set/.mask.safetensors",
        "set/.run.json",
        "removing .scores-utility.discarded",
        "before/responses-harmful.jsonl line 8",
        "before/.run.json",
        "training/.settings.json",
        "training/log.jsonl line 1",
        "training/log.jsonl line 4",
        "checkpoint-4/.run.json",
        "checkpoint-6/.run.json",
        "training/.run.json",
        "after/responses-borderline.jsonl line 1",
        "after/.run.json",
        "out/.metrics.json",
        "out/.examples.json",
        "out/.report.html",
    } <= {kill.replace("/..", "/.") for kill in kills}, kills
    assert stable(read_metrics(out)) == stable(read_metrics(tuned))
    assert model_bytes(out) == model_bytes(tuned)
    assert (out / "report.html").exists()
    assert leftovers(out) == []


def test_a_training_goes_on_at_its_newest_whole_checkpoint_and_says_so(
    nursery, tune_words, tuned, tmp_path
):
    out, log = tmp_path / "out", tmp_path / "log"
    words = [*tune_words(out, mask=tuned / "set", **HOW), "-v"]
    # dies in the middle of the save at step 6
    trap = {"at": "checkpoint-6", "do": "kill"}
    assert nursery.run(*words, log=log, trap=trap) == -signal.SIGKILL
    checkpoints = out / "training" / "checkpoints"
    assert [path.name for path in checkpoints.glob("checkpoint-*")] == ["checkpoint-4"]
    assert nursery.run(*words, log=log) == 0, log.read_text()
    said = "".join(log.read_text().split())  # a terminal breaks lines anywhere
    assert "checkpoint-6wasbeingsavedwhentherunwasstopped" in said
    assert f"goingonfrom{checkpoints / 'checkpoint-4'}" in said
    assert "step4of6" not in said
    assert "step5of6" in said
    assert model_bytes(out) == model_bytes(tuned)
    found, known = stable(read_metrics(out)), stable(read_metrics(tuned))
    for name in ("before", "after", "paired", "training", "gates"):
        assert found[name] == known[name], name
    assert leftovers(out) == []


def test_a_kill_in_the_middle_of_saving_the_model_costs_no_training(
    tune_settings, tuned, tmp_path, monkeypatch
):
    out, save = tmp_path / "out", _tune_training.save_tuned
    config = tune_settings(mask=str(tuned / "set"), save_steps=4)

    def half(model, tokenizer, folder):
        save(model, tokenizer, folder)
        (folder / "config.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(_tune_training, "save_tuned", half)
    with pytest.raises(KeyboardInterrupt):
        tune(config, out)
    assert not (out / "training" / "model").exists()
    assert not (out / "training" / "run.json").exists()
    monkeypatch.undo()
    steps = []
    finetune = _tune_training.finetune

    def counted(*args, on_step, **options):
        return finetune(*args, on_step=lambda *step: steps.append(step), **options)

    monkeypatch.setattr(_tune_training, "finetune", counted)
    tune(config, out)
    assert steps == []
    assert model_bytes(out) == model_bytes(tuned)
    assert leftovers(out) == []


def test_the_same_command_on_a_finished_folder_does_no_stage_again(
    tune_settings, tuned_copy, tuned
):
    found = tune(tune_settings(save_steps=4, gates=("asr<=1",)), tuned_copy)
    assert all(stage["reused"] for stage in found["run"]["stages"])
    assert stable(found) == stable(read_metrics(tuned))


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"gates": ("asr<=0.5",), "max_degenerate": 0.5}, set()),
        ({"num_attack": 11}, {"before", "after"}),
        ({"judge": "prefix"}, {"calibration-safety", "calibration-utility", "before", "after"}),
    ],
)
def test_other_settings_of_the_evaluation_train_nothing_again(
    tune_settings, tuned_copy, tuned, changes, again
):
    found = tune(tune_settings(save_steps=4, **changes), tuned_copy)
    fresh = {stage["name"] for stage in found["run"]["stages"] if not stage["reused"]}
    assert fresh == again
    assert model_bytes(tuned_copy) == model_bytes(tuned)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 2e-2}, "training.learning_rate: 0.01 there, 0.02 here"),
        ({"epochs": 1.0, "max_steps": None}, "training.max_steps: 6 there, None here"),
        ({"protect": "none"}, "protection.protect: Freeze there, Full here"),
        ({"q": 0.02}, "protection.mask: "),
        ({"num_data": 30}, "data: "),
        ({"save_steps": 2}, "save_steps: 4 there, 2 here"),
        ({"model": "unaligned", "any_model": True, "mask": "set"}, "model_id: model#"),
    ],
)
def test_another_training_never_takes_the_place_of_a_finished_one(
    tune_settings, tuned_copy, tuned, changes, words
):
    changes = dict(changes)
    if "mask" in changes:
        changes["mask"] = str(tuned / "set")
    model = changes.pop("model", "model")
    with pytest.raises(UserError) as raised:
        tune(tune_settings(model, **{"save_steps": 4} | changes), tuned_copy)
    assert words in str(raised.value)
    assert "choose another --out, or delete that folder to train anew" in str(raised.value)
    assert model_bytes(tuned_copy) == model_bytes(tuned)
    assert (tuned_copy / "training" / "run.json").exists()


def test_another_training_never_takes_the_place_of_checkpoints(
    nursery, tune_words, tune_settings, tuned, tmp_path
):
    out = tmp_path / "out"
    words = tune_words(out, mask=tuned / "set", **HOW)
    trap = {"at": "checkpoint-6", "do": "kill"}
    assert nursery.run(*words, log=tmp_path / "log", trap=trap) == -signal.SIGKILL
    config = tune_settings(mask=str(tuned / "set"), save_steps=4, learning_rate=2e-2)
    with pytest.raises(UserError, match=r"learning_rate: 0\.01 there, 0.02 here"):
        tune(config, out)
    assert (out / "training/checkpoints/checkpoint-4/model.safetensors").exists()


def test_a_training_that_saved_nothing_can_be_begun_with_other_settings(tune_settings, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no checkpoint had been saved"):
        tune(tune_settings(protect="none", learning_rate=1e30), out)
    found = tune(tune_settings(protect="none", learning_rate=1e-3), out)
    assert found["training"]["learning_rate"] == 1e-3


@pytest.mark.parametrize("name", ["training/model/model.safetensors", "set/mask.safetensors"])
def test_a_damaged_file_is_named_and_never_used(command, tune_words, tuned_copy, name):
    path = tuned_copy / name
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    ended = command(*tune_words(tuned_copy, **HOW))
    assert ended.code == 2
    assert str(path) in ended.text
    assert "changed since it was written" in ended.text


def test_a_deleted_evaluation_is_made_again_with_the_same_result(tune_settings, tuned_copy, tuned):
    shutil.rmtree(tuned_copy / "after")
    shutil.rmtree(tuned_copy / "set")
    found = tune(tune_settings(save_steps=4, gates=("asr<=1",)), tuned_copy)
    assert stable(found) == stable(read_metrics(tuned))
    fresh = {stage["name"] for stage in found["run"]["stages"] if not stage["reused"]}
    assert fresh == {"scores-safety", "scores-utility", "set", "after"}


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_same_command_goes_on(
    command, tune_words, tuned, tmp_path, monkeypatch
):
    out, sync = tmp_path / "out", os.fsync
    places = [
        "set/.mask", "before/responses-harmful", "training/.settings.json", "training/log.jsonl",
        "checkpoint-4/.run.json", "training/.run.json", "after/.run.json", "metrics.json",
    ]  # fmt: skip
    for place in places:

        def full(descriptor, place=place):
            if place in str(path_of(descriptor)).replace("/..", "/."):
                raise OSError(28, "No space left on device")
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        ended = command(*tune_words(out, **HOW))
        assert ended.code == 2, ended
        assert "the disk is full" in ended.text, place
        assert not (out / "report.html").exists()
        assert not list(out.rglob("*.part"))
    monkeypatch.setattr(os, "fsync", sync)
    assert command(*tune_words(out, **HOW)).code == 0
    assert stable(read_metrics(out)) == stable(read_metrics(tuned))
    assert leftovers(out) == []


@pytest.mark.slow
def test_a_full_disk_in_a_track_is_said_and_the_same_command_goes_on(
    command, tuned, place, tmp_path, monkeypatch
):
    out, sync = tmp_path / "out", os.fsync
    words = ["track", tuned, "--num-permutations", 19, "--device", "cpu", "--max-new-tokens", 10]
    for kind in ("safety", "utility"):
        words += [f"--{kind}", place / f"{kind}.jsonl", f"--num-{kind}", 16]
    words += ["--out", out]
    places = [
        "groups/.critical", "step-6/.drift.parquet", "rescored/.dynamics.parquet",
        "overlap/.run.json", "out/.drift.parquet", "out/.metrics.json", "figures/.",
        "out/.report.html",
    ]  # fmt: skip
    for place_ in places:

        def full(descriptor, place_=place_):
            if place_ in str(path_of(descriptor)):
                raise OSError(28, "No space left on device")
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        ended = command(*words)
        assert ended.code == 2, (place_, ended)
        assert "the disk is full" in ended.text, place_
        assert not (out / "report.html").exists()
        assert not list(out.rglob("*.part"))
    monkeypatch.setattr(os, "fsync", sync)
    ended = command(*words)
    assert ended.code == 0, ended
    assert (out / "report.html").exists()
    reused = {stage["name"]: stage["reused"] for stage in read_metrics(out)["run"]["stages"]}
    assert reused["groups"]
    assert reused["rescored"]
    assert [path for path in leftovers(out) if path.parent != out / "figures"] == []


def test_ctrl_c_while_training_ends_with_130_and_goes_on(nursery, tune_words, tuned, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    words = tune_words(out, mask=tuned / "set", **HOW)
    trap = {"at": "training/log.jsonl", "line": 3, "do": "interrupt"}
    assert nursery.run(*words, log=log, trap=trap) == 130
    assert log.read_text().endswith("interrupted; the same command goes on where this one was\n")
    assert nursery.run(*words, log=log) == 0, log.read_text()
    assert model_bytes(out) == model_bytes(tuned)
    rows = [json.loads(line) for line in (out / "training/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
