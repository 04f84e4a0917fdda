"""Killed, interrupted, in use, changed: the same command goes on, and ends the same."""

import json
import os
import shutil
import signal
import time

import pytest

from end_to_end.comparing import read_metrics, stable
from end_to_end.nursery import path_of
from safetypin.artifacts import UserError
from safetypin.audit import _run, audit
from safetypin.stages import read_set


@pytest.fixture
def words(place, options):
    def make(out, model="model", **changes):
        return ["audit", place / model, *options(**changes), "--out", out]

    return make


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def leftovers(folder):
    """Return what only an unfinished run leaves."""
    found = [".inputs", ".holder.json", "*.part", "*.discarded", "half-?.safetensors", "scores-*"]
    return [path for pattern in found for path in folder.rglob(pattern)]


def events(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_killed_once_at_every_write_it_ends_with_the_same_metrics(
    nursery, words, finished, tmp_path
):
    out, book, log = tmp_path / "out", tmp_path / "kills", tmp_path / "log"
    num_kills = 0
    while code := nursery.run(*words(out), log=log, trap={"once": str(book)}):
        assert code == -signal.SIGKILL, log.read_text()
        num_kills += 1
        assert num_kills < 100
    kills = book.read_text().splitlines()
    assert num_kills == len(kills)
    assert {
        "out/.holder.json",
        "out/events.jsonl line 1",
        "baseline/responses-harmful.jsonl line 1",
        "baseline/responses-harmful.jsonl line 8",  # in the second batch
        "baseline/.run.json",
        "calibration-safety/responses-calibration.jsonl line 4",
        "calibration-safety/.prompts.jsonl",
        "scores-safety/.half-0.mask.safetensors",
        "scores-safety/.half-0.safetensors",
        "scores-utility/.scores.safetensors",
        "scores-utility/.run.json",
        "sets/.critical-q0.01-p0.01.mask.safetensors",
        "sets/.safety.record.json",
        "sets/.run.json",
        "removing .scores-safety.discarded",
        "removing .scores-utility.discarded",
        "critical-q0.01-p0.01/responses-borderline.jsonl line 1",
        "random-q0.01-p0.01-s0/.run.json",
        "out/.metrics.json",
        "out/.examples.json",
        "out/.report.html",
    } <= {kill.replace("out/..", "out/.") for kill in kills}, kills
    assert stable(read_metrics(out)) == stable(read_metrics(finished))
    assert (out / "report.html").exists()
    assert leftovers(out) == []
    assert events(out)[-1]["event"] == "finished"


def test_what_was_answered_before_a_kill_is_not_answered_again(nursery, words, tmp_path):
    out = tmp_path / "out"
    trap = {"at": "baseline/responses-harmful.jsonl", "line": 9, "do": "kill"}
    assert nursery.run(*words(out), log=tmp_path / "log", trap=trap) == -signal.SIGKILL
    path = out / "baseline" / "responses-harmful.jsonl"
    # half of line 9 is gone; the first batch of 6 and two of the second are whole
    assert path.read_bytes().count(b"\n") == 8
    lines = path.read_text().splitlines()
    marked = [line.replace("I'm", "MARK") for line in lines[:6]]
    path.write_text("\n".join([*marked, *lines[6:]]))
    trap = {"at": "baseline/.run.json", "do": "kill"}
    assert nursery.run(*words(out), log=tmp_path / "log", trap=trap) == -signal.SIGKILL
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted({row["index"] for row in rows}) == list(range(12))
    assert sum("MARK" in row["response"]["text"] for row in rows) == 6


def test_ctrl_c_ends_with_130_and_the_word_that_it_goes_on(nursery, words, finished, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    trap = {"at": "sets/", "do": "interrupt"}
    assert nursery.run(*words(out), log=log, trap=trap) == 130
    assert log.read_text().endswith("interrupted; the same command goes on where this one was\n")
    assert "Traceback" not in log.read_text()
    assert not list(out.rglob("*.part"))
    assert nursery.run(*words(out), log=log) == 0
    assert stable(read_metrics(out)) == stable(read_metrics(finished))
    reused = {stage["name"]: stage["reused"] for stage in read_metrics(out)["run"]["stages"]}
    assert reused["scores-utility"]
    assert not reused["sets"]


def test_a_second_audit_is_told_who_holds_the_folder(nursery, words, command, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    trap = {"at": "calibration-safety/", "do": "pause"}
    holder = nursery.start(*words(out), log=log, trap=trap)
    try:
        path = out / "calibration-safety" / "responses-calibration.jsonl"
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        before = {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*"))}
        second = command(*words(out))
        assert second.code == 2
        assert (
            f"{out} is in use by process {holder} on {os.uname().nodename} since 20" in second.text
        )
        assert f"(safetypin audit {words(out)[1]}" in second.text
        assert "wait for it, or choose another --out" in second.text
        assert {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*"))} == before
    finally:
        os.kill(holder, signal.SIGKILL)
    assert nursery.wait(holder) == -signal.SIGKILL
    assert nursery.run(*words(out), log=log) == 0, log.read_text()


def test_the_same_command_on_a_finished_folder_does_no_stage_again(settings, copied, finished):
    metrics = audit(settings(), copied)
    assert all(stage["reused"] for stage in metrics["run"]["stages"])
    assert stable(metrics) == stable(read_metrics(finished))


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        slow(
            {"q": (0.02, 0.01), "controls": ("random",)},
            {"scores-", "sets", "cells/critical-q0.02", "cells/random-q0.02"},
        ),
        slow({"num_random": 2, "min_asr_rise": 0.4}, {"cells/random-q0.01-p0.01-s1"}),
        ({"controls": ("random", "top_safety")}, {"scores-", "sets", "cells/top_safety"}),
        slow({"overlap_fraction": 0.1}, {"scores-", "sets"}),
        slow({"method": "wanda"}, {"scores-", "sets", "cells/"}),
        slow({"num_borderline": 3}, {"baseline", "cells/"}),
        slow({"keep_scores": True}, {"scores-"}),
    ],
)
def test_other_settings_run_only_what_they_touch_and_equal_a_fresh_run(
    settings, copied, tmp_path, changes, again
):
    config = settings(**changes)
    metrics = audit(config, copied)
    assert stable(metrics) == stable(audit(config, tmp_path / "fresh"))
    fresh = {stage["name"] for stage in metrics["run"]["stages"] if not stage["reused"]}
    names = [stage["name"] for stage in metrics["run"]["stages"]]
    assert fresh == {name for name in names if name.startswith(tuple(again))}
    assert (copied / "scores-safety" / "run.json").exists() == config.keep_scores


def test_another_dtype_is_another_run(settings, tmp_path):
    for dtype in ("float32", "bfloat16"):
        metrics = audit(settings("unaligned", dtype=dtype), tmp_path)
        assert metrics["model"]["dtype"] == dtype
        assert not any(stage["reused"] for stage in metrics["run"]["stages"])


def test_a_folder_of_another_model_is_refused_and_left_as_it_is(settings, copied):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*.j*")}
    with pytest.raises(UserError) as error:
        audit(settings("unaligned"), copied)
    assert f"{copied} holds an audit of model#" in str(error.value)
    assert "the model is unaligned#" in str(error.value)
    assert "choose another --out, or delete the folder" in str(error.value)
    after = {path: path.stat().st_mtime_ns for path in copied.rglob("*.j*")}
    assert {path.name for path in before.keys() ^ after.keys()} <= {"events.jsonl"}
    assert all(after[path] == time for path, time in before.items() if path.name != "events.jsonl")


def test_a_report_of_other_settings_is_gone_before_the_first_stage(settings, copied, monkeypatch):
    def killed(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(_run, "run_stage", killed)
    with pytest.raises(KeyboardInterrupt):
        audit(settings(), copied)
    assert (copied / "report.html").exists()
    with pytest.raises(KeyboardInterrupt):
        audit(settings(q=(0.02,)), copied)
    for name in ("report.html", "metrics.json", "examples.json"):
        assert not (copied / name).exists()


@pytest.mark.parametrize(
    "name",
    [
        "baseline/responses-harmful.jsonl",
        "calibration-safety/prompts.jsonl",
        "sets/critical-q0.01-p0.01.mask.safetensors",
        "sets/safety.record.json",
        "cells/random-q0.01-p0.01-s0/responses-borderline.jsonl",
    ],
)
@pytest.mark.parametrize("damage", ["cut", "flipped", "deleted"])
def test_a_damaged_file_is_named_and_never_used(words, command, copied, name, damage):
    path = copied / name
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-3])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    ended = command(*words(copied))
    assert ended.code == 2
    assert str(path) in ended.text
    assert "delete" in ended.text
    assert "run the stage again" in ended.text


@pytest.mark.parametrize(
    "content", ["", "{", '{"schema": 99}', '{"schema": 1, "stage": "x"}', "[]"]
)
def test_a_damaged_record_is_named(words, command, copied, content):
    (copied / "baseline" / "run.json").write_text(content)
    ended = command(*words(copied))
    assert ended.code == 2
    assert str(copied / "baseline") in ended.text
    assert "delete" in ended.text


def test_a_deleted_stage_is_made_again_with_the_same_result(settings, copied, finished):
    shutil.rmtree(copied / "cells" / "critical-q0.01-p0.01")
    shutil.rmtree(copied / "sets")
    metrics = audit(settings(), copied)
    assert stable(metrics) == stable(read_metrics(finished))


def test_a_full_disk_is_said_and_the_same_command_goes_on(
    words, command, finished, tmp_path, monkeypatch
):
    out, sync = tmp_path / "out", os.fsync
    places = [
        ".holder.json",
        "responses-harmful.jsonl",
        "calibration-utility/.run.json",
        "half-1.mask",
        "sets/.critical",
        "random-q0.01-p0.01-s0/responses-harmless",
        "metrics.json",
        "report.html",
    ]
    for place in places:

        def full(descriptor, place=place):
            if place in str(path_of(descriptor)):
                raise OSError(28, "No space left on device")
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        ended = command(*words(out))
        assert ended.code == 2, ended
        assert "the disk is full" in ended.text
        assert "then run the same command again" in ended.text
        assert not (out / "report.html").exists()
        assert not list(out.rglob("*.part"))
    monkeypatch.setattr(os, "fsync", sync)
    assert command(*words(out)).code == 0
    assert stable(read_metrics(out)) == stable(read_metrics(finished))
    assert leftovers(out) == []


def test_a_top_that_moved_is_evaluated_again_though_the_critical_set_stays(settings, tmp_path):
    # so small a p takes nothing out of the safety top: the critical set knows no utility prompts
    config = settings(p=(0.0005,), controls=("top_utility",))
    audit(config, tmp_path / "out")
    masks = [mask_of(tmp_path / "out", arm) for arm in ("critical", "top_utility")]
    other = settings(p=(0.0005,), controls=("top_utility",), num_utility=9)
    second = audit(other, tmp_path / "out")
    moved = [mask_of(tmp_path / "out", arm) for arm in ("critical", "top_utility")]
    assert (masks[0], masks[1] == moved[1]) == (moved[0], False)
    reused = {stage["name"]: stage["reused"] for stage in second["run"]["stages"]}
    assert reused["cells/critical-q0.01-p0.0005"]
    assert not reused["cells/top_utility-q0.01-p0.0005"]


def mask_of(out, arm):
    """Return the fingerprint of a set of an audit."""
    return read_set(out / "sets", f"{arm}-q0.01-p0.0005").fingerprint
