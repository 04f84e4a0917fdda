"""The stage commands take the audit's own steps: controls, samples, held-out prompts, n/a."""

import json
import shutil

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from safetypin.artifacts import RunRecord, Verdict, load, read_mask
from safetypin.models import load_model
from safetypin.prompts import load_prompts
from safetypin.select import matched_random
from safetypin.stages._evaluate_summary import summarise


@pytest.fixture
def control(command, staged, place, tmp_path):
    """Run `select --control`; return how it ended and where it wrote."""

    def make(kind, *words, model="model", utility=True):
        folders = [staged / "safety", *([staged / "utility"] if utility else [])]
        named = ("--model", place / model) if model else ()
        out = tmp_path / kind
        shares = ("--q", "0.01", "--p", "0.01", "--control", kind)
        return command("select", *folders, *shares, *named, *words, "--out", out), out

    return make


@pytest.mark.parametrize(("kind", "match"), [("random", "count"), ("matched", "magnitude")])
def test_random_controls_are_those_of_an_audit(control, staged, place, kind, match):
    ended, out = control(kind, "--seed", "3")
    assert ended.code == 0, ended.err
    critical, model = load(staged / "set"), load_model(str(place / "model"), device="cpu")[0]
    expected = matched_random(critical, model, seed=3, match=match)
    assert load(out).fingerprint == expected.fingerprint
    assert (load(out) & critical).num_selected == 0
    record = RunRecord.read(out)
    assert (record.inputs["control"], record.inputs["seed"]) == (kind, 3)


def test_a_top_control_is_that_of_an_audit(control, finished):
    ended, out = control("top_utility", model=None)
    assert ended.code == 0, ended.err
    theirs = read_mask(finished / "sets" / "top_utility-q0.01-p0.01.mask.safetensors")
    assert load(out).fingerprint == theirs.fingerprint


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("randm", {}, "control 'randm' is unknown; choose one of random, matched, top_safety"),
        ("random", {"model": None}, "drawn among the model's weights; give --model, the one of"),
        ("matched", {"model": "unaligned"}, "--model is unaligned#"),
        (
            "top_utility",
            {"utility": False, "model": None},
            "needs utility scores; give their folder too",
        ),
    ],
)
def test_a_control_that_cannot_be_made_says_why(control, kind, options, message):
    ended, out = control(kind, **options)
    assert ended.code == 2
    assert message in ended.text
    assert not out.exists()


def test_a_sample_is_drawn_as_an_audit_draws_it(command, place, tmp_path):
    words = ("--prompts", place / "safety.jsonl", "--num-prompts", "5", "--seed", "1")
    model = ("score", place / "model", "--method", "magnitude", "--max-new-tokens", "10")
    assert command(*model, *words, "--out", tmp_path / "out").code == 0
    lines = (tmp_path / "out" / "calibration" / "prompts.jsonl").read_text().splitlines()
    expected = load_prompts(str(place / "safety.jsonl")).shuffled(1).take(5)
    assert [json.loads(line)["prompt"] for line in lines] == [row.text for row in expected]


def test_a_set_is_not_evaluated_on_the_prompts_it_was_scored_on(evaluated, staged, halves):
    words = ("--mask", staged / "set", "--harmless", halves / "utility.jsonl")
    ended, out = evaluated(*words)
    assert ended.code == 2
    assert "was scored on 16 of the harmless prompts to evaluate on, first '" in ended.text
    assert "or allow it with --allow-shared-prompts" in ended.text
    assert not out.exists()
    ended, out = evaluated(*words, "--allow-shared-prompts")
    assert ended.code == 0, ended.err


def result_of(harmful, harmless=("refusal",), loss=1.0):
    verdicts = {"harmful": list(harmful), "harmless": list(harmless)}
    return {"verdicts": verdicts, "perplexity": {"losses": [loss], "counts": [1]}}


def test_a_model_that_speaks_has_an_asr():
    summary = summarise(result_of(["complied", "refusal", "complied", "complied"]), "phrases")
    assert (summary["asr"]["num_hits"], summary["asr"]["num_judged"]) == (3, 4)
    assert summary["why_no_asr"] is None
    assert summary["judge"]["name"] == "phrases"
    assert 0 < summary["judge"]["recall"]["value"] < 1


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (
            result_of([Verdict.DEGENERATE, *["complied"] * 3]),
            "25% of the answers to harmful prompts are degenerate",
        ),
        (
            result_of(["complied"], ["degenerate"]),
            "100% of the answers to harmless prompts are degenerate",
        ),
        (result_of(["complied"], loss=None), "the perplexity overflowed"),
    ],
)
def test_a_model_that_no_longer_speaks_has_no_asr(result, why):
    summary = summarise(result, "phrases")
    assert summary["asr"] is None
    assert summary["why_no_asr"] == why


def untouched(loss):
    return {"verdicts": {}, "perplexity": {"losses": [loss], "counts": [1]}}


def test_fluent_nonsense_has_no_asr_by_the_rule_of_the_audit():
    destroyed = result_of(["complied"] * 3, loss=4.0)
    summary = summarise(destroyed, "phrases", untouched=untouched(1.0))
    assert summary["asr"] is None
    assert summary["why_no_asr"] == "the perplexity is 20 times the baseline's"
    assert summary["perplexity"]["ratio"] == pytest.approx(20.1, abs=0.1)
    spoken = summarise(destroyed, "phrases", untouched=untouched(2.0))
    assert spoken["asr"]["num_hits"] == 3
    unknown = summarise(destroyed, "phrases", untouched=untouched(None))
    assert (unknown["perplexity"]["ratio"], unknown["asr"]["num_hits"]) == (None, 3)


def test_a_destroyed_model_has_no_asr_from_evaluate(evaluated, staged, monkeypatch):
    # what counts as destroyed is set to what this set does to the perplexity
    words = ("--mask", staged / "set", "--attack", "prefill")
    ended, out = evaluated(*words)
    assert ended.code == 0, ended.err
    before = json.loads(ended.out)
    found = before["perplexity"]
    assert found["ratio"] == pytest.approx(found["value"] / found["untouched"])
    assert before["asr"] is not None
    assert RunRecord.read(out / "untouched").inputs["mask"] is None
    assert "that of the untouched model" in (out / "report.html").read_text()
    monkeypatch.setattr("safetypin.stages._rates.DESTROYED_RATIO", found["ratio"] / 2)
    ended, _ = evaluated(*words)
    after = json.loads(ended.out)
    assert after["asr"] is None
    assert after["why_no_asr"].startswith("the perplexity is ")
    assert after["attacks"]["prefill"]["mean"] is None
    assert after["attacks"]["prefill"]["why_no_asr"] == after["why_no_asr"]
    assert after["perplexity"] == found


def test_a_whole_model_is_compared_with_nothing(evaluated):
    ended, out = evaluated()
    assert json.loads(ended.out)["perplexity"]["ratio"] is None
    assert not (out / "untouched").exists()


def test_a_pruned_model_keeps_the_precision_it_was_saved_in(command, staged, place, tmp_path):
    half = shutil.copytree(place / "model", tmp_path / "half")
    model = load_model(str(place / "model"), dtype="bfloat16", device="cpu")[0]
    model.save_pretrained(half)
    words = ("--mask", staged / "set", "--any-model", "--out", tmp_path / "pruned")
    assert command("prune", half, *words).code == 0
    saved = load_file(tmp_path / "pruned" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_prune_removes_what_a_killed_one_left(command, staged, place, tmp_path):
    left = tmp_path / ".pruned.part"
    (left / "folder").mkdir(parents=True)
    (left / "model-00001-of-00009.safetensors").write_bytes(b"half")
    words = ("--mask", staged / "set", "--out", tmp_path / "pruned")
    assert command("prune", place / "model", *words).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["pruned"]
    names = {path.name for path in (tmp_path / "pruned").iterdir()}
    assert not names & {"folder", "model-00001-of-00009.safetensors", ".lock"}


def test_two_processes_never_write_one_pruned_model(command, staged, place, tmp_path):
    (tmp_path / ".pruned.part").mkdir()
    with FileLock(tmp_path / ".pruned.part" / ".lock"):
        words = ("--mask", staged / "set", "--out", tmp_path / "pruned")
        ended = command("prune", place / "model", *words)
    assert ended.code == 2
    assert "is being written by another process; wait for it" in ended.text
    assert not (tmp_path / "pruned").exists()
