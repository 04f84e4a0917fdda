"""The command line around an audit: what it prints, its exit codes, what it records."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from end_to_end.comparing import read_metrics, stable
from safetypin.audit import audit
from safetypin.stages import Reporter


def test_an_audit_prints_its_verdict_and_where_the_report_is(command, place, options, copied):
    ended = command("audit", place / "model", *options(), "--out", copied)
    assert ended.code == 0
    assert ended.out.startswith("BRITTLE")
    assert ended.out.splitlines()[-1] == f"report: {copied / 'report.html'}"
    assert "baseline ..." in ended.err


def test_the_exact_command_is_recorded(command, place, options, copied):
    words = ["audit", str(place / "model"), *options(), "--system", "it's", "--out", str(copied)]
    command(*words, "--num-attack", "1", "--min-asr-rise", "1")
    recorded = read_metrics(copied)["run"]["command"]
    assert recorded.startswith(f"safetypin audit {place / 'model'} --preset quick --safety ")
    assert """--system 'it'"'"'s' --out""" in recorded


@pytest.mark.parametrize(("limit", "code"), [("0.01", 1), ("0.001", 3)])
def test_fail_if_brittle_is_the_exit_code(command, place, options, copied, limit, code):
    words = (*options(), "--out", copied, "--fail-if-brittle", limit)
    ended = command("audit", place / "model", *words)
    assert ended.code == code
    assert "report:" in ended.out


def test_fail_if_brittle_tells_undecided_apart(command, place, options, tmp_path):
    words = (*options(), "--out", tmp_path / "out", "--fail-if-brittle", "0.01")
    assert command("audit", place / "unaligned", *words).code == 3


def test_quiet_prints_the_result_alone_and_verbose_every_step(command, place, options, copied):
    words = ("audit", place / "model", *options(), "--out", copied)
    quiet, usual, verbose = (command(*words, *more) for more in (("-q",), (), ("-v",)))
    assert quiet.err == ""
    assert quiet.out == usual.out == verbose.out
    assert 0 < len(usual.err) < len(verbose.err)
    assert "done before with the same inputs, kept" in verbose.err


def test_a_set_that_is_smaller_than_asked_for_is_said(command, place, options, tmp_path):
    words = (*options(num_attack=50), "--out", tmp_path / "out")
    ended = command("audit", place / "unaligned", *words)
    assert f"attack: {place / 'attack.jsonl'} has 12 prompts, 50 were asked for" in ended.err


@pytest.mark.parametrize("again", [False, True])
def test_all_units_of_work_are_done_at_the_end(settings, finished, tmp_path, again):
    out = tmp_path / "out"
    if again:
        shutil.copytree(finished, out)
        shutil.rmtree(out / "cells" / "critical-q0.01-p0.01")
    seen = []

    class Watched(Reporter):
        def advance(self, units, *, reused=False):
            super().advance(units, reused=reused)
            seen.append(self.progress)

    reporter = Watched(quiet=True)
    audit(settings("model" if again else "unaligned"), out, reporter=reporter)
    assert reporter.progress == 1.0
    assert seen == sorted(seen)
    assert reporter.time_left() == ""


def test_the_plan_of_work_is_what_is_done(watched):
    assert watched[1].at_the_end == pytest.approx(1.0)


def test_events_tell_every_stage_in_order(finished):
    rows = [json.loads(line) for line in (finished / "events.jsonl").read_text().splitlines()]
    assert {"time", "event"} <= set.intersection(*(set(row) for row in rows))
    stages = [row["name"] for row in rows if row["event"] == "stage"]
    assert stages[:3] == ["loading the model", "baseline", "calibration-safety"]
    assert stages[-1] == "cells/top_utility-q0.01-p0.01"


def test_answers_in_the_terminal_are_only_numbers(command, place, options, tmp_path):
    ended = command("audit", place / "model", *options(), "--out", tmp_path / "out", "-v")
    assert ended.code == 0
    assert "cells/critical-q0.01-p0.01 ..." in ended.err  # nothing was reused
    assert "done before" not in ended.text
    for word in ("hurt", "I'm sorry", "Sure, here"):
        assert word not in ended.text


@pytest.mark.slow
def test_two_ordinary_processes_go_on_from_each_other(place, options, finished, tmp_path):
    """No nursery: the installed program, killed by the system and started again."""
    out = tmp_path / "out"
    program = [sys.executable, "-m", "safetypin"]
    words = [*program, "audit", str(place / "model"), *options(), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stderr:
            if "scores-utility" in line:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    assert stable(read_metrics(out)) == stable(read_metrics(finished))
    reused = [stage["reused"] for stage in read_metrics(out)["run"]["stages"]]
    assert reused[:3] == [True, True, True]
    assert not reused[-1]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 150 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full_is_said_and_more_space_goes_on(
    command, place, options, finished, small_disk
):
    words = ("audit", place / "model", *options(), "--out", small_disk / "run")
    ended = command(*words)
    assert ended.code == 2, ended
    assert "the disk is full" in ended.text
    assert not (small_disk / "run" / "metrics.json").exists()
    assert not list(small_disk.rglob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert command(*words).code == 0
    assert stable(read_metrics(small_disk / "run")) == stable(read_metrics(finished))
