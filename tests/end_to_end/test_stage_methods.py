"""score, select and evaluate with the methods that an audit does not take."""

import json

import pytest
import torch

import safetypin as sp
from safetypin.artifacts import RunRecord, load


def test_scores_of_the_difference_to_a_reference(command, place, halves, tmp_path):
    words = ("--prompts", halves / "safety.jsonl", "--method", "magnitude-difference")
    out = tmp_path / "scores"
    ended = command(
        "score", place / "model", *words, "--reference", place / "unaligned", "--out", out
    )
    assert ended.code == 0, ended.err
    scores, record = load(out / "scores"), RunRecord.read(out / "scores")
    assert scores.method == "magnitude-difference"
    assert record.inputs["reference_id"] == scores.reference_id
    # the fixture's refusal is planted in 2 % of the weights
    changed = sum(int((tensor > 0).sum()) for tensor in scores.tensors.values())
    assert 0 < changed < 0.05 * sum(tensor.numel() for tensor in scores.tensors.values())


def test_scores_by_sparsegpt(command, place, halves, tmp_path):
    words = ("--prompts", halves / "safety.jsonl", "--method", "sparsegpt")
    ended = command("score", place / "model", *words, "--out", tmp_path / "scores")
    assert ended.code == 0, ended.err
    assert load(tmp_path / "scores" / "scores").method == "sparsegpt"


def test_a_pattern_and_the_safest_weights_can_be_selected(command, staged, tmp_path):
    folders = (staged / "safety", staged / "utility")
    for name, words in (("top", ()), ("safest", ("--safest",))):
        ended = command("select", folders[0], "--pattern", "2:4", *words, "--out", tmp_path / name)
        assert ended.code == 0, ended.err
    top, safest = load(tmp_path / "top"), load(tmp_path / "safest")
    assert (top & safest).num_selected == 0
    assert top.fraction == safest.fraction == 0.5
    assert RunRecord.read(tmp_path / "safest").inputs["pattern"] == "2:4"
    ended = command("select", *folders, "--q", "0.1", "--safest", "--out", tmp_path / "low")
    assert ended.code == 0, ended.err
    low, critical = load(tmp_path / "low"), load(staged / "set")
    assert (low & critical).num_selected == 0
    assert 0 < low.fraction <= 0.1


def test_a_set_can_be_given_a_references_values_and_evaluated(evaluated, staged, place):
    options = ("--text", "", "--borderline", "", "--harmless", "")
    ended, out = evaluated("--mask", staged / "set", "--reference", place / "model", *options)
    assert ended.code == 0, ended.err
    whole, _ = evaluated(*options, name="whole")
    assert json.loads(ended.out) == json.loads(whole.out)  # its own values are put in their place
    inputs = RunRecord.read(out / "evaluation").inputs
    assert inputs["reference_id"].rpartition("#")[2] == inputs["model_id"].rpartition("#")[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pattern", "2-4"), "pattern '2-4' is not of the form N:M; write 2:4"),
        (("--pattern", "2:5"), "inputs, which 5 does not divide"),
        (("--pattern", "2:4", "--q", "0.1"), "--q has no effect beside --pattern"),
        (("--pattern", "2:4", "--group", "row"), "--group has no effect beside --pattern"),
    ],
)
def test_select_refuses_bad_patterns(command, staged, tmp_path, words, message):
    ended = command("select", staged / "safety", *words, "--out", tmp_path / "out")
    assert ended.code == 2
    assert message in ended.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "magnitude-difference"), "compares with another model; give one with"),
        (("--reference", "model"), "--reference is of no use to method snip"),
    ],
)
def test_score_refuses_a_missing_or_useless_reference(command, place, tmp_path, words, message):
    sources = ("--prompts", place / "attack.jsonl", "--out", tmp_path / "out")
    ended = command("score", place / "model", *sources, *words)
    assert ended.code == 2
    assert message in ended.text
    assert not (tmp_path / "out").exists()


def test_an_audit_and_an_evaluation_refuse_a_reference_of_no_use(refused, evaluated, place):
    assert "compares with another model, which is not at hand here" in refused(
        "--method", "magnitude-difference"
    )
    ended, _ = evaluated("--reference", place / "unaligned")
    assert ended.code == 2
    assert "--reference gives its values to a set; name one with --mask" in ended.text


def test_ranks_go_through_files_and_leave_the_model_as_it_was(place, halves, tmp_path):
    model, tokenizer = sp.load_model(str(place / "model"), device="cpu")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prompts = sp.PromptSet.load(halves / "safety.jsonl")
    ranks = sp.actsvd(model, sp.batches(prompts, tokenizer), prompts_id=prompts.fingerprint)
    sp.save(ranks, tmp_path / "ranks")
    loaded = sp.load(tmp_path / "ranks")
    with sp.projected(model, loaded, rank=4):
        assert any(not torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
