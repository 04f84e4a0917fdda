"""Finished stages pass from one run folder to another."""

import os
from unittest.mock import Mock

from safetypin.artifacts import write_json
from safetypin.experiment._plan import Plan
from safetypin.experiment._run import _Running
from safetypin.stages import Output, Reporter, run_stage
from safetypin.stages._run import PARTIAL_FILE
from safetypin.stages._share import share_stages


def stage(folder, name="before", text="made"):
    def compute(folder):
        (folder / "payload.txt").write_text(text)
        return Output({"text": text}, ["payload.txt"])

    return run_stage(folder / name, name, {"a": 1}, compute, reporter=Reporter(quiet=True))


def test_a_finished_stage_is_taken_and_then_skipped(tmp_path):
    stage(tmp_path / "one")
    assert share_stages(tmp_path / "one", tmp_path / "two", ["before"]) == ["before"]
    record, reused = stage(tmp_path / "two", text="never made")
    assert reused
    assert record.result == {"text": "made"}


def test_files_are_linked_and_cost_no_space(tmp_path):
    stage(tmp_path / "one")
    share_stages(tmp_path / "one", tmp_path / "two", ["before"])
    files = [tmp_path / name / "before" / "payload.txt" for name in ("one", "two")]
    assert files[0].samefile(files[1])


def test_where_links_are_not_to_be_had_files_are_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    stage(tmp_path / "one")
    share_stages(tmp_path / "one", tmp_path / "two", ["before"])
    assert stage(tmp_path / "two")[1]


def test_a_stage_made_anew_leaves_the_one_it_was_linked_with_alone(tmp_path):
    stage(tmp_path / "one")
    share_stages(tmp_path / "one", tmp_path / "two", ["before"])

    def other(folder):
        (folder / "payload.txt").write_text("changed")
        return Output({}, ["payload.txt"])

    run_stage(tmp_path / "two/before", "before", {"a": 2}, other, reporter=Reporter(quiet=True))
    assert (tmp_path / "one/before/payload.txt").read_text() == "made"


def test_an_unfinished_stage_is_not_taken(tmp_path):
    (tmp_path / "one" / "before").mkdir(parents=True)
    assert share_stages(tmp_path / "one", tmp_path / "two", ["before", "missing"]) == []
    assert not (tmp_path / "two").exists()


def judged(folder, is_final):
    return run_stage(
        folder, "after", {}, lambda _: Output({}, [], is_final), reporter=Reporter(quiet=True)
    )


def test_a_stage_whose_judge_was_out_of_reach_is_not_taken(tmp_path):
    judged(tmp_path / "one" / "after", is_final=False)
    assert share_stages(tmp_path / "one", tmp_path / "two", ["after"]) == []
    judged(tmp_path / "one" / "after", is_final=True)
    assert share_stages(tmp_path / "one", tmp_path / "two", ["after"]) == ["after"]


def test_a_part_whose_judge_was_out_of_reach_is_run_again_until_it_was_not(tmp_path):
    def quiet(_):
        return Reporter(quiet=True)

    plan = Mock(spec=Plan, out=tmp_path, identify=None, runs=())
    running, runs = _Running(plan, quiet(tmp_path), quiet), []

    def compute():
        runs.append(1)
        judged(tmp_path / "one" / "tune" / "after", is_final=len(runs) > 1)
        # what a killed stage of other settings has left is no part of this run
        left = tmp_path / "one" / "tune" / "scores"
        left.mkdir(exist_ok=True)
        (left / PARTIAL_FILE).write_text("killed")
        run = {"stages": [{"name": "after"}]}
        write_json(tmp_path / "one" / "tune" / "metrics.json", {"run": run, "runs": len(runs)})

    for _ in range(3):
        running._part("one/tune", {"seed": 1}, compute)
    assert len(runs) == 2


def test_what_is_there_already_stays(tmp_path):
    stage(tmp_path / "one")
    stage(tmp_path / "two", text="own")
    assert share_stages(tmp_path / "one", tmp_path / "two", ["before"]) == []
    assert (tmp_path / "two/before/payload.txt").read_text() == "own"


def test_what_a_kill_left_of_a_copy_is_no_hindrance(tmp_path):
    stage(tmp_path / "one")
    left = tmp_path / "two" / "before.linked"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    assert share_stages(tmp_path / "one", tmp_path / "two", ["before"]) == ["before"]
    assert not left.exists()
    assert not (tmp_path / "two/before/half").exists()
