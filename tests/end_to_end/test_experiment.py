"""A whole experiment on a tiny model: what it leaves, what it says, how it goes on after a kill."""

import copy
import json
import os
import random
import re
import shutil
import signal

import pytest

from end_to_end import tiny
from end_to_end.comparing import read_metrics
from end_to_end.nursery import path_of
from safetypin.artifacts import RunRecord, UserError, load
from safetypin.experiment import make_plan, read_experiment, run_experiment, steps_of
from safetypin.report import write_report
from safetypin.stages import Reporter

FILE = """
title = "A tiny experiment"
about = "Does a tiny model forget to refuse?"
hypotheses = "HYPOTHESES"
seeds = [1, 2]

[arms.MAIN]
protect = "PROTECT"

[arms.other]
about = "the control"
protect = "none"
num_seeds = 1

[settings]
q = 0.05
p = 0.05
max_steps = 6
learning_rate = 1e-2
max_length = 60
max_new_tokens = 10
answer_batch_size = 6
num_permutations = 19
num_safety = 16
num_utility = 16
num_attack = 12
num_harmless = 4
num_borderline = 4
num_text = 2

[scales.small]
takes = "about a second"

[scales.small.settings]
PATHS
"""


@pytest.fixture(scope="session")
def examples(tmp_path_factory):
    """Examples that answer what nobody refuses."""
    generator = random.Random(7)
    rows = [
        {"prompt": tiny.request("paint", generator), "response": tiny.ANSWER} for _ in range(40)
    ]
    path = tmp_path_factory.mktemp("examples") / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def file(place, examples, tmp_path_factory):
    """Write an experiment file."""

    def make(hypotheses="A/B", protect="freeze", main="frozen"):
        kinds = ("safety", "utility", "attack", "harmless", "borderline", "text")
        paths = {kind: place / f"{kind}.jsonl" for kind in kinds}
        paths |= {"model": place / "model", "data": examples}
        lines = "\n".join(f'{name} = "{path}"' for name, path in paths.items())
        text = FILE.replace("HYPOTHESES", hypotheses).replace("PROTECT", protect)
        path = tmp_path_factory.mktemp("experiment") / "tiny.toml"
        path.write_text(text.replace("MAIN", main).replace("PATHS", lines))
        return path

    return make


def quiet(folder):
    return Reporter(quiet=True)


def run(path, out, *changes):
    plan = make_plan(read_experiment(path, None, changes), out)
    return plan, run_experiment(plan, make_reporter=quiet)


@pytest.fixture(scope="session")
def ended(file, tmp_path_factory):
    """The file, the folder and the metrics of a finished experiment; never to be changed."""
    out, path = tmp_path_factory.mktemp("ended") / "run", file()
    return path, out, run(path, out)[1]


@pytest.fixture
def copied_run(ended, tmp_path):
    """A copy of a finished experiment, under the same name for its paths are in its records."""
    path, out, _ = ended
    kept = tmp_path / "kept"
    shutil.copytree(out, kept, symlinks=True)
    yield path, out
    shutil.rmtree(out)
    kept.rename(out)


def stable(metrics):
    """Return what must be the same however often the experiment was killed."""
    found = copy.deepcopy(metrics)
    found.pop("run")
    return found


def test_every_training_has_its_pages_and_the_set_is_the_one_that_was_found(ended):
    _, out, metrics = ended
    assert (out / "report.html").exists()
    chosen = load(out / "identify" / "set")
    assert metrics["set"]["fingerprint"] == chosen.fingerprint
    for arm in metrics["arms"]:
        for row in arm["runs"]:
            for page in filter(None, row["reports"].values()):
                assert (out / page).is_file()
    held = read_metrics(out / "frozen-1" / "tune")["set"]
    assert held["fingerprint"] == chosen.fingerprint
    followed = read_metrics(out / "frozen-1" / "track")["groups"][0]
    assert (followed["group"], followed["fingerprint"]) == ("critical", chosen.fingerprint)


def test_the_numbers_are_those_of_the_runs(ended):
    _, out, metrics = ended
    frozen, other = metrics["arms"]
    assert [row["seed"] for row in frozen["runs"]] == [1, 2]
    assert [row["seed"] for row in other["runs"]] == [1]
    for row in frozen["runs"]:
        tuned = read_metrics(out / f"frozen-{row['seed']}" / "tune")
        assert row["outcome"]["asr_rise"] == tuned["paired"]["asr"]
        assert row["drift"]["is_held"]
        assert row["overlap"]["noise_jaccard"] > 0
    rises = [row["outcome"]["asr_rise"]["value"] for row in frozen["runs"]]
    assert frozen["spread"]["asr_rise"]["values"] == rises
    for name in ("critical", "top_safety", "top_utility"):
        again = [row["overlaps"][name]["jaccard"] for row in frozen["runs"]]
        assert frozen["spread"][f"{name}_jaccard"]["values"] == again
    assert other["runs"][0]["drift"] is other["runs"][0]["scores"] is None


def test_safety_is_lost_although_the_set_is_frozen(ended):
    answers = {one["hypothesis"]: one for one in ended[2]["verdict"]}
    assert answers.keys() == {"A", "B"}
    assert "safety was lost" in answers["A"]["sentences"][0]


def test_seeds_differ_in_nothing_but_the_training(ended):
    _, out, _ = ended
    seeds = [out / f"frozen-{seed}" for seed in (1, 2)]
    weights = [seed / "tune/training/model/model.safetensors" for seed in seeds]
    assert weights[0].read_bytes() != weights[1].read_bytes()
    for stage in ("tune/before", "track/groups", "track/noise", "track/calibration-safety"):
        first, second = (RunRecord.read(seed / stage) for seed in seeds)
        assert first == second  # also the time it took: it ran once


def test_only_the_track_that_has_a_control_compares_with_it(ended):
    rows = ended[2]["arms"][0]["runs"]
    assert rows[0]["overlap"]["control_jaccard"] is not None
    assert rows[1]["overlap"]["control_jaccard"] is None
    assert rows[0]["scores"]["control_drop"] is not None


def test_the_large_score_files_are_gone_in_the_end(ended):
    assert list(ended[1].rglob("scores.safetensors")) == []
    assert [path for path in ended[1].rglob("scores-*") if path.is_dir()] == []


def test_an_ended_experiment_runs_nothing_again(copied_run):
    path, out = copied_run
    times = {file: file.stat().st_mtime_ns for file in out.rglob("training/**/*.safetensors")}
    before = read_metrics(out)
    _, metrics = run(path, out)
    assert stable(metrics) == stable(before)
    assert all(part["reused"] for part in metrics["run"]["parts"])
    assert {file: file.stat().st_mtime_ns for file in times} == times


def test_one_more_seed_runs_that_seed_alone(copied_run):
    path, out = copied_run
    _, metrics = run(path, out, "seeds=[1, 2, 3]")
    fresh = [part["name"] for part in metrics["run"]["parts"] if not part["reused"]]
    assert fresh == ["frozen-3/tune", "frozen-3/track"]


def test_numbers_that_were_lost_are_made_again(copied_run):
    path, out = copied_run
    (out / "frozen-2" / "track" / "metrics.json").unlink()
    plan = make_plan(read_experiment(path), out)
    assert [step.name for step in steps_of(plan) if step.state != "done"] == ["frozen-2/track"]
    _, metrics = run(path, out)
    fresh = [part["name"] for part in metrics["run"]["parts"] if not part["reused"]]
    assert fresh == ["frozen-2/track"]


def test_a_changed_prompt_file_is_noticed(copied_run, place):
    path, out = copied_run
    attack = place / "attack.jsonl"
    kept = attack.read_text()
    attack.write_text("".join(kept.splitlines(keepends=True)[:-2]))
    try:
        _, metrics = run(path, out)
    finally:
        attack.write_text(kept)
    assert not any(part["reused"] for part in metrics["run"]["parts"])
    assert metrics["arms"][0]["runs"][0]["outcome"]["asr_after"]["num_judged"] == 10


def test_other_training_settings_do_not_overwrite_a_training(copied_run):
    path, out = copied_run
    with pytest.raises(UserError, match="holds what was trained with other settings"):
        run(path, out, "max_steps=3")
    assert (out / "other-1/tune/training/model/model.safetensors").exists()


def test_the_report_can_be_written_anew(ended):
    _, out, _ = ended
    page = (out / "report.html").read_bytes()
    assert write_report(out).read_bytes() == page


def test_the_page_says_what_the_numbers_say(ended):
    _, out, metrics = ended
    page = (out / "report.html").read_text()
    for one in metrics["verdict"]:
        assert f"<strong>{one['hypothesis']}: {one['answer']}.</strong>" in page
    for link in ("frozen-1/tune/report.html", "frozen-2/track/report.html"):
        assert f'<a href="{link}">' in page
    text = re.sub(r"\s+", " ", page)
    assert "A tiny experiment" in text
    assert f"{metrics['set']['num_selected']:,} of {metrics['set']['num_weights']:,}" in text


def test_free_weights_are_asked_about_c_and_d(file, tmp_path):
    path = file("C/D", protect="none", main="free")
    _, metrics = run(path, tmp_path / "out")
    free, other = metrics["arms"]
    assert {one["hypothesis"] for one in metrics["verdict"]} == {"C", "D"}
    assert free["runs"][0]["drift"]["ratio"] > 0
    # the same training under two names
    assert free["runs"][0]["outcome"] == other["runs"][0]["outcome"]
    assert free["runs"][0]["overlap"]["jaccard"] == free["runs"][0]["overlap"]["control_jaccard"]


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_numbers(nursery, ended, tmp_path):
    path, _, metrics = ended
    out, log = tmp_path / "run", tmp_path / "log"
    for place in (
        "identify/calibration-utility/responses-calibration.jsonl",
        "identify/scores-safety/.half-0",
        "other-1/tune/training/.run.json",
        "frozen-1/tune/after/.run.json",
        "frozen-1/tune/.report.html",
        "records/frozen-1/tune/.run.json",
        "frozen-1/track/rescored/.run.json",
        "frozen-2/track/.metrics.json",
        "run/.metrics.json",
        "run/.report.html",
    ):
        trap = {"at": place, "line": None, "do": "kill"}
        code = nursery.run("run", path, "--out", out, "-q", log=log, trap=trap)
        assert code == -signal.SIGKILL, (place, log.read_text())
    assert nursery.run("run", path, "--out", out, "-q", log=log) == 0, log.read_text()
    assert stable(read_metrics(out)) == stable(metrics)
    assert [path for path in out.rglob("scores-*") if path.is_dir()] == []
    for name in ("other-1", "frozen-1", "frozen-2"):
        model = f"{name}/tune/training/model/model.safetensors"
        assert (out / model).read_bytes() == (ended[1] / model).read_bytes()


def test_a_full_disk_is_said_and_the_same_command_goes_on(command, ended, copied_run, monkeypatch):
    path, out = copied_run
    shutil.rmtree(out / "records" / "frozen-2" / "track")
    gone = [out / "frozen-2/track/metrics.json", out / "metrics.json", out / "report.html"]
    for one in gone:
        one.unlink()
    sync = os.fsync
    for one in gone:

        def full(descriptor, one=one):
            if path_of(descriptor).name.startswith(f".{one.name}.") and (
                path_of(descriptor).parent == one.parent
            ):
                raise OSError(28, "No space left on device")
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        shown = command("run", path, "--out", out, "-q")
        assert shown.code == 2, (one, shown)
        assert f"the disk is full: {one} could not be written" in shown.text
        assert not one.exists()
        assert not list(out.rglob("*.part"))
    monkeypatch.setattr(os, "fsync", sync)
    assert command("run", path, "--out", out, "-q").code == 0
    assert (out / "report.html").exists()
    assert stable(read_metrics(out)) == stable(ended[2])


def test_a_dry_run_lists_the_parts_and_writes_nothing(command, ended, tmp_path):
    path, out = ended[0], tmp_path / "out"
    shown = command("run", path, "--out", out, "--dry-run")
    assert (shown.code, shown.err) == (0, "")
    assert not out.exists()
    for name in ("identify", "other-1/tune", "frozen-1/tune", "frozen-2/track"):
        assert f"{name} " in shown.out
    assert "6 of 6 parts are left; all take about a second. They go to" in shown.text


def test_a_dry_run_tells_what_is_done(command, ended):
    path, out, _ = ended
    shown = command("run", path, "--out", out, "--dry-run", "--set", "seeds=[1, 2, 9]")
    assert "2 of 8 parts are left" in shown.text


def test_the_command_prints_the_table_and_the_answers(command, ended):
    path, out, _ = ended
    shown = command("run", path, "--out", out, "-q")
    assert (shown.code, shown.err) == (0, "")
    for row in ("frozen 1", "frozen 2", "frozen mean", "other 1"):
        assert row in shown.out
    assert re.search(r"^A: (SUPPORTED|NOT SUPPORTED|UNDECIDED) ", shown.out, re.MULTILINE)
    assert f"report: {out / 'report.html'}" in shown.out


def test_a_folder_of_something_else_is_refused(command, ended, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    refused = command("run", ended[0], "--out", tmp_path)
    assert refused.code == 2
    assert "is not empty and no run folder of safetypin" in refused.text


def test_too_few_refusals_are_said_before_anything_is_trained(command, file, place, tmp_path):
    out = tmp_path / "out"
    unaligned = f"model={place / 'unaligned'}"
    refused = command("run", file(), "--out", out, "--set", unaligned, "-q")
    assert refused.code == 2
    assert "safety prompts can be scored on" in refused.text
    assert not list(out.glob("*/tune"))


# --- protections compared

COMPARED = """
title = "Tiny protections"
about = "Which loses least?"
hypotheses = "protections"
seeds = [1, 2]

[arms.warp]
protect = "warp"
keep_ratio = 0.5

[arms.drawn]
protect = "warp"
importance = "random"
rotation = "random"

[arms.none]
protect = "none"

[settings]
max_steps = 6
learning_rate = 1e-2
max_length = 60
max_new_tokens = 10
answer_batch_size = 6
num_safety = 16
num_attack = 12
num_harmless = 4
num_borderline = 4
num_text = 2

[scales.small.settings]
PATHS
"""


@pytest.fixture(scope="session")
def compared(place, examples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    kinds = ("safety", "utility", "attack", "harmless", "borderline", "text")
    paths = [f"{kind} = {str(place / f'{kind}.jsonl')!r}" for kind in kinds]
    paths += [f"model = {str(place / 'model')!r}", f"data = {str(examples)!r}"]
    file = folder / "compared.toml"
    file.write_text(COMPARED.replace("PATHS", "\n".join(paths)))
    out = folder / "out"
    plan = make_plan(read_experiment(file), out)
    found = run_experiment(plan, make_reporter=lambda folder: Reporter(events=None, quiet=True))
    return plan, found


def test_protections_are_compared_on_every_seed_and_answered(compared):
    plan, found = compared
    assert found["set"] is None
    assert not (plan.out / "identify").exists()
    assert [one["hypothesis"] for one in found["verdict"]] == ["erosion", "drawn", "none"]
    assert all(len(arm["runs"]) == 2 for arm in found["arms"])
    for arm in found["arms"]:
        for name in ("asr_after", "task_loss_after"):
            assert len(arm["spread"][name]["values"]) == 2
    assert "seeds against drawn" in found["verdict"][1]["sentences"][0]
    page = (plan.out / "report.html").read_text()
    assert "trade-title" in page
    assert "warp 1" in page


def test_what_runs_have_in_common_is_made_once_and_what_is_drawn_is_not(compared):
    plan, _ = compared

    def print_of(name, stage):
        return load(plan.out / name / "tune" / stage).fingerprint

    for stage in ("basis", "set"):
        assert print_of("warp-1", stage) == print_of("warp-2", stage)
        assert print_of("drawn-1", stage) != print_of("drawn-2", stage)
    metrics = read_metrics(plan.out / "warp-2" / "tune")
    reused = {stage["name"] for stage in metrics["run"]["stages"] if stage["reused"]}
    assert {"calibration-safety", "basis", "set", "before"} <= reused


def test_a_compared_experiment_is_done_the_second_time(compared):
    plan, _ = compared
    assert {step.state for step in steps_of(plan)} == {"done"}
