"""audit, score and select refuse an option that would do nothing, before they write."""

import json

import pytest

from safetypin.artifacts import RunRecord


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--counted", "all"), "--counted would do nothing: only Wanda and SparseGPT count"),
        (("--method", "wanda", "--reduction", "sum"), "--reduction would do nothing: only SNIP"),
        (("--num-matched", "2"), "--num-matched would do nothing: the controls are random, top_"),
        (("--method", "random", "--score-batch-size", "2"), "the method random reads no prompts"),
    ],
)
def test_an_audit_refuses_an_option_that_would_do_nothing(refused, words, message):
    assert message in refused(*words)


def test_the_file_of_an_audit_may_hold_what_this_one_does_not_need(
    command, place, values, tmp_path
):
    needed = {**values, "num_matched": 2, "counted": "all"}
    path = tmp_path / "audit.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in needed.items()))
    ended = command("audit", place / "model", "--config", path, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--counted", "all"), "--counted would do nothing: only Wanda and SparseGPT count"),
        (("--method", "sparsegpt", "--reduction", "mean"), "--reduction would do nothing: only"),
        (("--method", "magnitude", "--batch-size", "4"), "--batch-size would do nothing: the m"),
    ],
)
def test_score_refuses_an_option_that_would_do_nothing(command, place, tmp_path, words, message):
    sources = ("--prompts", place / "attack.jsonl", "--out", tmp_path / "out")
    ended = command("score", place / "model", *sources, *words)
    assert ended.code == 2
    assert message in ended.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_score_takes_which_tokens_a_method_counts(command, place, halves, tmp_path, method):
    words = ("--prompts", halves / "safety.jsonl", "--method", method, "--counted", "last")
    ended = command("score", place / "model", *words, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    record = RunRecord.read(tmp_path / "out" / "scores")
    assert record.inputs["counted"] == "last"
    assert record.result["num_tokens"] == record.result["num_examples"]


@pytest.mark.parametrize(
    ("utility", "words", "message"),
    [
        (False, ("--p", "0.05"), "--p would do nothing: no utility scores are given"),
        (True, ("--seed", "1"), "--seed would do nothing: only --control random and matched"),
        (True, ("--model", "model"), "--model would do nothing: only --control random and"),
        (True, ("--control", "top_utility", "--seed", "1"), "--seed would do nothing"),
    ],
)
def test_select_refuses_an_option_that_would_do_nothing(
    command, staged, tmp_path, utility, words, message
):
    folders = [staged / "safety", *([staged / "utility"] if utility else [])]
    ended = command("select", *folders, *words, "--out", tmp_path / "out")
    assert ended.code == 2
    assert message in ended.text
    assert not (tmp_path / "out").exists()
