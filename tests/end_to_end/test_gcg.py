"""`safetypin gcg`: suffixes in a file, a search that goes on, and the attack that reads them."""

import json
import signal

import pytest

from safetypin.artifacts import RunRecord

SIZES = ("--num-prompts", "2", "--num-steps", "4", "--num-candidates", "6", "--num-tokens", "3")
TARGET = ("--target", "Sure, here is", "--top-k", "20", "--plain", "--quiet")


@pytest.fixture
def words(place):
    behaviors = ("--behaviors", place / "safety.jsonl")
    return ("gcg", place / "model", *behaviors, *SIZES, *TARGET)


def test_suffixes_are_written_one_a_line_and_read_by_the_attack(command, words, tmp_path, place):
    out = tmp_path / "gcg"
    ended = command(*words, "--num-suffixes", "2", "--out", out)
    assert ended.code == 0, ended.err
    result = RunRecord.read(out / "search").result
    assert len(result["suffixes"]) == 2
    for row in result["suffixes"]:
        assert row["loss"][1] <= row["loss"][0]
        assert row["suffix"] not in ended.text
    lines = (out / "suffixes.txt").read_text().splitlines()
    assert lines == list(dict.fromkeys(row["suffix"] for row in result["suffixes"]))
    assert str(out / "suffixes.txt") in ended.text
    given = ("--harmful", place / "attack.jsonl", "--suffixes", out / "suffixes.txt", "--plain")
    none = ("--harmless", "", "--borderline", "", "--text", "", "--max-new-tokens", "4")
    options = ("--attack", "suffix", "--out", tmp_path / "attacked", "--quiet")
    ended = command("evaluate", place / "model", *given, *none, *options)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["attacks"]["suffix"]["num_variants"] == len(lines)


@pytest.mark.parametrize("line", [1, 4, 7])
def test_a_killed_search_goes_on_and_finds_the_same(nursery, words, tmp_path, line):
    words, whole, out = (*words, "--num-suffixes", "2"), tmp_path / "whole", tmp_path / "killed"
    trap = {"at": "steps.jsonl", "line": line, "do": "kill"}
    assert nursery.run(*words, "--out", whole, log=tmp_path / "log") == 0
    assert nursery.run(*words, "--out", out, log=tmp_path / "log", trap=trap) == -signal.SIGKILL
    assert not (out / "suffixes.txt").exists()
    assert nursery.run(*words, "--out", out, log=tmp_path / "log") == 0
    for name in ("suffixes.txt", "search/steps.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--num-suffixes", "0"), "num_suffixes must be at least 1, got 0"),
        (("--num-steps", "0"), "num_steps must be at least 1, got 0"),
        (("--target", ""), "the target is empty"),
        (("--num-tokens", "70"), "has 79 tokens, the model's window 64"),
    ],
)
def test_bad_searches_are_refused(command, words, tmp_path, more, said):
    ended = command(*words, *more, "--out", tmp_path / "gcg")
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.text
