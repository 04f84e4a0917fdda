"""A stage runs once, goes on where it was killed, and never takes what is not its own."""

import json
import os

import pytest

from safetypin.artifacts import DamagedArtifactError, UserError, append_line, read_lines
from safetypin.stages import Output, Reporter, discard, held, run_stage

INPUTS = {"model_id": "m", "share": 0.01, "pair": (1, 2)}


@pytest.fixture
def counted():
    """A stage that counts how often it ran and goes on with its partial file."""

    class Counted:
        runs = 0
        dies_at = None

        def __call__(self, folder):
            self.runs += 1
            path = folder / "rows.jsonl"
            for number in range(len(read_lines(path)), 4):
                if number == self.dies_at:
                    raise KeyboardInterrupt
                append_line(path, number)
            return Output({"num_rows": len(read_lines(path))}, ["rows.jsonl"])

    return Counted()


def run(folder, compute, inputs=INPUTS, stage="count"):
    return run_stage(folder, stage, inputs, compute, reporter=Reporter(quiet=True))


def test_a_stage_runs_once(tmp_path, counted):
    first, was_there = run(tmp_path / "a", counted)
    again, is_there = run(tmp_path / "a", counted)
    assert (was_there, is_there, counted.runs) == (False, True, 1)
    assert again == first
    assert first.result == {"num_rows": 4}
    assert first.inputs["pair"] == [1, 2]  # as JSON has it, so that it compares equal when read


def test_an_interrupted_stage_goes_on_with_its_own_part(tmp_path, counted):
    counted.dies_at = 2
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", counted)
    assert not (tmp_path / "a" / "run.json").exists()
    counted.dies_at = None
    run(tmp_path / "a", counted)
    assert read_lines(tmp_path / "a" / "rows.jsonl") == [0, 1, 2, 3]
    assert not (tmp_path / "a" / ".inputs").exists()


def test_what_is_not_final_is_recorded_and_done_again_with_what_is_there(tmp_path, counted):
    def unsure(folder):
        return counted(folder)._replace(is_final=counted.runs > 1)

    first, _ = run(tmp_path / "a", unsure)
    assert (tmp_path / "a" / "run.json").exists()
    (tmp_path / "a" / "rows.jsonl").write_text("7\n8\n9\n10\n")  # and is gone on with
    again, was_there = run(tmp_path / "a", unsure)
    assert (counted.runs, was_there) == (2, False)
    assert read_lines(tmp_path / "a" / "rows.jsonl") == [7, 8, 9, 10]
    assert again.result == first.result
    assert run(tmp_path / "a", unsure)[1]


def test_a_part_of_other_inputs_is_not_gone_on_with(tmp_path, counted):
    counted.dies_at = 2
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", counted)
    (tmp_path / "a" / "stale").touch()
    counted.dies_at = None
    run(tmp_path / "a", counted, inputs=INPUTS | {"share": 0.02})
    assert not (tmp_path / "a" / "stale").exists()


@pytest.mark.parametrize("change", [{"inputs": INPUTS | {"share": 0.5}}, {"stage": "other"}])
def test_other_inputs_run_again(tmp_path, counted, change):
    run(tmp_path / "a", counted)
    _, is_there = run(tmp_path / "a", counted, **change)
    assert (is_there, counted.runs) == (False, 2)


def test_a_stage_that_fails_before_it_writes_leaves_no_folder(tmp_path):
    def fail(folder):
        raise UserError("bad input")

    with pytest.raises(UserError, match="bad input"):
        run(tmp_path / "a", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_payload_is_never_reused(tmp_path, counted):
    run(tmp_path / "a", counted)
    (tmp_path / "a" / "rows.jsonl").write_text("9\n")
    with pytest.raises(DamagedArtifactError, match="changed since it was written"):
        run(tmp_path / "a", counted)


def test_a_result_that_json_has_no_number_for_is_an_error_and_no_record(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        run(tmp_path / "a", lambda folder: Output({"value": float("nan")}, []))
    assert not (tmp_path / "a" / "run.json").exists()


def test_a_folder_that_no_stage_wrote_is_refused_untouched(tmp_path, counted):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="is not empty and no run of safetypin"):
        run(tmp_path / "a", counted)
    assert (tmp_path / "a" / "thesis.tex").read_text() == "mine"
    assert counted.runs == 0


def test_discard_takes_the_name_away_at_once_and_then_the_files(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "file").touch()
    monkeypatch.setattr("shutil.rmtree", lambda path, **options: None)  # as if killed there
    discard(folder)
    assert not folder.exists()
    monkeypatch.undo()
    discard(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    with held(tmp_path / "run"), pytest.raises(UserError) as told, held(tmp_path / "run"):
        pass
    assert f"in use by process {os.getpid()} on {os.uname().nodename} since 20" in str(told.value)
    assert "wait for it, or choose another --out" in str(told.value)
    with held(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".holder.json").read_text())["process"] == os.getpid()
    assert not (tmp_path / "run" / ".holder.json").exists()


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_folder_whose_holder_left_no_name_is_in_use_all_the_same(tmp_path, content):
    with held(tmp_path):
        (tmp_path / ".holder.json").write_text(content)
        with pytest.raises(UserError, match="is in use by another process"), held(tmp_path):
            pass


def test_a_folder_made_for_nothing_is_removed(tmp_path):
    with pytest.raises(UserError), held(tmp_path / "run"):
        raise UserError("bad input")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_something_in_it_stays(tmp_path):
    def fail_late(folder):
        with held(folder):
            (folder / "stage").mkdir()
            raise UserError("bad input")

    with pytest.raises(UserError, match="bad input"):
        fail_late(tmp_path / "run")
    assert (tmp_path / "run" / "stage").is_dir()
    with held(tmp_path / "run"):
        pass


def test_parts_that_a_killed_run_left_are_cleared(tmp_path):
    (tmp_path / "run" / "stage").mkdir(parents=True)
    (tmp_path / "run" / ".lock").touch()
    part = tmp_path / "run" / "stage" / ".scores.safetensors.123.part"
    part.touch()
    model = tmp_path / "run" / ".pruned.part"
    model.mkdir()
    (model / "model.safetensors").touch()
    with held(tmp_path / "run"):
        assert not part.exists()
        assert not model.exists()


def test_a_folder_that_cannot_be_written_is_an_error_in_words(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; --out takes a folder"), held(tmp_path / "file"):
        pass
