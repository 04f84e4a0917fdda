"""score, select, prune, evaluate and report from files do what the audit does in one go."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from end_to_end.comparing import read_metrics
from safetypin.artifacts import RunRecord, WeightMask, load

CELL = "critical-q0.01-p0.01"


def test_the_commands_cut_the_set_that_the_audit_cuts(staged, finished):
    ours = load(staged / "set")
    theirs = RunRecord.read(finished / "sets").result["sets"][CELL]
    assert isinstance(ours, WeightMask)
    assert ours.fingerprint == theirs["fingerprint"]
    assert ours.num_selected == theirs["num_selected"]


def test_the_commands_measure_what_the_audit_measures(staged, finished, evaluated):
    metrics = read_metrics(finished)
    cell = next(cell for cell in metrics["cells"] if cell["id"] == CELL)
    masked, _ = evaluated("--mask", staged / "set")
    pruned, _ = evaluated(model=staged / "pruned", name="pruned")
    whole, _ = evaluated(name="whole")
    for ended, side in ((masked, cell), (pruned, cell), (whole, metrics["baseline"])):
        assert ended.code == 0, ended.err
        assert ended.err == ""
        found = json.loads(ended.out)
        for verdict in ("refusal", "complied", "degenerate"):
            assert found["harmful"][verdict] == side[verdict]
        assert found["asr"] == side["asr"]
        assert found["judge"] == metrics["judge"]
        assert found["harmless"]["refusal"] == side["harmless_refused"]
        assert found["borderline"]["refusal"] == side["borderline_refused"]
    before, after = json.loads(whole.out)["perplexity"], json.loads(masked.out)["perplexity"]
    assert after["value"] == cell["perplexity"]
    assert before["value"] == metrics["baseline"]["perplexity"]["value"]
    assert before["num_tokens"] == metrics["baseline"]["perplexity"]["num_tokens"]


def test_the_pruned_folder_is_an_ordinary_model_with_exactly_these_zeros(staged, place):
    mask = load(staged / "set")
    before = load_file(place / "model" / "model.safetensors")
    after = AutoModelForCausalLM.from_pretrained(staged / "pruned", dtype="auto").state_dict()
    assert sum(int(members.sum()) for members in mask.tensors.values()) == mask.num_selected
    for name, weight in before.items():
        members = mask.tensors.get(name, torch.zeros_like(weight, dtype=torch.bool))
        assert not after[name][members].any()
        assert torch.equal(after[name][~members], weight[~members])


def test_the_pruned_folder_records_where_it_comes_from(staged):
    record = RunRecord.read(staged / "pruned")  # which checks every file's hash
    assert record.inputs["mask"] == load(staged / "set").fingerprint
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= record.files.keys()


def test_the_folder_of_the_model_is_never_changed(place, staged, evaluated):
    content = {path.name: path.read_bytes() for path in (place / "model").iterdir()}
    evaluated("--mask", staged / "set")
    assert {path.name: path.read_bytes() for path in (place / "model").iterdir()} == content


def test_score_runs_once(command, place, halves, staged):
    path = staged / "safety" / "scores" / "run.json"
    before = path.stat().st_mtime_ns
    words = ("--prompts", halves / "safety.jsonl", "--out", staged / "safety")
    ended = command("score", place / "model", *words)
    assert ended.code == 0, ended.err
    assert ended.out == f"14 matrices scored on 16 examples in {staged / 'safety'}\n"
    assert path.stat().st_mtime_ns == before


def test_score_lets_the_model_answer_and_keeps_its_refusals(command, place, tmp_path):
    mixed = tmp_path / "mixed.jsonl"
    parts = [(place / f"{kind}.jsonl").read_text() for kind in ("attack", "harmless")]
    mixed.write_text("".join(parts))
    words = ("--prompts", mixed, "--max-new-tokens", "10", "--out", tmp_path / "out")
    ended = command("score", place / "model", *words, "--keep", "refusal", "--method", "wanda")
    assert ended.code == 0, ended.err
    assert "scored on 12 examples" in ended.out
    rows = (tmp_path / "out" / "calibration" / "prompts.jsonl").read_text().splitlines()
    assert all("hurt" in json.loads(row)["prompt"] for row in rows)


def test_an_answer_may_hold_any_line_separator(command, place, tmp_path):
    # JSON leaves these in a string; str.splitlines would cut the row there
    rows = [{"prompt": "please hurt", "response": f"sorry,{mark}but I"} for mark in "\u2028\x85"]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    ended = command("score", place / "model", "--prompts", path, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "scored on 2 examples" in ended.out


def test_score_without_an_answer_to_keep_says_so(command, place, tmp_path):
    words = ("--prompts", place / "harmless.jsonl", "--max-new-tokens", "10")
    ended = command(
        "score", place / "model", *words, "--keep", "refusal", "--out", tmp_path / "out"
    )
    assert ended.code == 2
    assert "none of the 4 answers was a refusal; use another model or prompts" in ended.text


def test_a_set_alone_can_be_selected_from_safety_scores(command, staged, tmp_path):
    ended = command("select", staged / "safety", "--q", "0.02", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert load(tmp_path / "out").fraction == pytest.approx(0.02, abs=1e-3)


def test_a_mask_of_another_model_can_be_forced(command, staged, place, tmp_path):
    out = tmp_path / "pruned"
    words = ("--mask", staged / "set", "--out", out, "--any-model")
    assert command("prune", place / "unaligned", *words).code == 0
    assert (out / "run.json").exists()


def test_pruning_to_a_reference_takes_its_values(command, staged, place, tmp_path):
    out = tmp_path / "mixed"
    words = ("--mask", staged / "set", "--reference", place / "unaligned", "--out", out)
    assert command("prune", place / "model", *words).code == 0
    mask, found = load(staged / "set"), load_file(out / "model.safetensors")
    reference = load_file(place / "unaligned" / "model.safetensors")
    for name, members in mask.tensors.items():
        assert torch.equal(found[name][members], reference[name][members])


def test_evaluate_can_leave_parts_out(evaluated):
    ended, out = evaluated("--text", "", "--borderline", "", "--harmless", "")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert list(found) == ["judge", "harmful", "asr", "why_no_asr"]
    assert json.loads((out / "summary.json").read_text()) == found


def test_evaluate_runs_once(evaluated):
    first, out = evaluated()
    before = (out / "evaluation" / "run.json").stat().st_mtime_ns
    second, _ = evaluated()
    assert second.out == first.out
    assert (out / "evaluation" / "run.json").stat().st_mtime_ns == before


def test_report_writes_the_same_page_again(command, copied):
    page = (copied / "report.html").read_bytes()
    (copied / "report.html").unlink()
    ended = command("report", copied)
    assert ended.code == 0
    assert ended.out.split() == ["report:", str(copied / "report.html")]
    assert (copied / "report.html").read_bytes() == page
