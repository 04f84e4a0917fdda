"""What a person sees of a long run, and what the run folder keeps of it."""

import io
import itertools
import json

import pytest
from rich.console import Console

from safetypin.stages import Reporter


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""

    class Clock:
        now = 0.0

    monkeypatch.setattr("time.monotonic", lambda: Clock.now)
    return Clock


def shown(*, terminal=False, **how):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    return Reporter(console=console, **how), console.file


def test_off_a_terminal_every_stage_is_a_plain_line(clock):
    reporter, output = shown()
    with reporter.running():
        reporter.expect(100)
        reporter.stage("baseline", 50)
        clock.now = 10.0
        reporter.advance(50)
        reporter.stage("sets", 50)
    assert output.getvalue() == "[    0 s] baseline ...\n[   10 s] sets ... about 10 s left\n"


def test_a_long_stage_says_how_far_it_is_but_not_too_often(clock):
    reporter, output = shown()
    reporter.expect(100)
    reporter.stage("baseline", 100)
    for clock.now in range(1, 41):
        reporter.advance(1)
    assert output.getvalue().splitlines()[1:] == [
        "[   16 s] baseline: 16 % of all",
        "[   32 s] baseline: 32 % of all",
    ]


@pytest.mark.parametrize(("count", "words"), [(1, "1 stage was"), (2, "2 stages were")])
def test_what_was_done_before_is_told_at_the_end(count, words):
    reporter, output = shown()
    for index in range(count):
        reporter.kept(f"stage {index}")
    reporter.finish()
    assert f"{words} done before with the same inputs, and kept" in output.getvalue()


def test_quiet_says_nothing_and_verbose_says_more():
    quiet, silent = shown(quiet=True, verbose=True)
    usual, some = shown()
    verbose, more = shown(verbose=True)
    for reporter in (quiet, usual, verbose):
        with reporter.running():
            reporter.stage("baseline", 1)
            reporter.note("a note")
            reporter.detail("a detail")
            reporter.finish()
    assert silent.getvalue() == ""
    assert "a note" in some.getvalue()
    assert "a detail" not in some.getvalue()
    assert "a detail" in more.getvalue()


def test_on_a_terminal_there_is_a_bar_with_the_time_left(clock):
    reporter, output = shown(terminal=True)
    with reporter.running():
        reporter.expect(10)
        reporter.stage("baseline", 10)
        clock.now = 5.0
        reporter.advance(5)
    assert "baseline" in output.getvalue()
    assert "about 5 s left" in output.getvalue()
    assert "50 %" in output.getvalue()


def test_text_is_never_read_as_markup():
    reporter, output = shown()
    reporter.note("[bold]this[/bold] and [/nonsense]")
    assert output.getvalue() == "[bold]this[/bold] and [/nonsense]\n"


def test_time_left_is_measured_on_fresh_work_alone(clock):
    reporter, _ = shown()
    reporter.expect(1000)
    reporter.advance(500, reused=True)
    assert reporter.time_left() == ""  # nothing was measured yet
    clock.now = 10.0
    reporter.advance(100)
    assert reporter.time_left() == "about 40 s left"
    clock.now = 100.0
    assert reporter.time_left() == "about 7 min left"
    reporter.advance(400)
    assert reporter.time_left() == ""


def test_a_stage_counts_as_whole_when_the_next_begins():
    reporter, _ = shown()
    reporter.expect(100)
    reporter.stage("smaller than planned", 60)
    reporter.advance(10)
    assert reporter.progress == 0.1
    reporter.stage("next", 40)
    assert reporter.progress == 0.6


def test_work_done_twice_counts_once():
    reporter, _ = shown()
    reporter.expect(100)
    reporter.stage("a batch that a kill cut in two", 50)
    reporter.advance(30, reused=True)
    reporter.advance(50)
    assert reporter.progress == 0.5


def test_finish_is_all_of_it_whatever_was_reported():
    reporter, _ = shown()
    reporter.expect(100)
    reporter.stage("only one", 10)
    reporter.finish()
    assert reporter.progress == 1.0
    assert reporter.time_left() == ""


def test_events_are_json_lines_with_times_that_do_not_fall(tmp_path):
    path = tmp_path / "events.jsonl"
    reporter, _ = shown(events=path)
    with reporter.running():
        reporter.stage("one", 1)
        reporter.note('with "quotes"\nand a line break')
        reporter.finish()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["event"] for row in rows] == ["stage", "note", "finished"]
    assert all(a["time"] <= b["time"] for a, b in itertools.pairwise(rows))


def test_a_half_line_of_a_killed_run_is_dropped(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"time": 1, "event": "stage"}\n{"time": 2, "eve')
    reporter, _ = shown(events=path)
    with reporter.running():
        reporter.note("on again")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["event"] for row in rows] == ["stage", "note"]


def test_no_folder_is_made_for_events(tmp_path):
    reporter, _ = shown(events=tmp_path / "none" / "events.jsonl")
    with reporter.running():
        reporter.note("early")
    assert not (tmp_path / "none").exists()
