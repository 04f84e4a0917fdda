"""The sets of an audit go into prune and evaluate as those of `select` do."""

import json
import shutil

import pytest

from end_to_end.comparing import read_metrics
from safetypin.artifacts import RunRecord, read_mask

CRITICAL, TOP = "critical-q0.01-p0.01", "top_utility-q0.01-p0.01"


@pytest.fixture
def pruned(command, place, tmp_path):
    """Prune the tiny model; return how it ended and where it wrote."""

    def run(*words, model="model"):
        out = tmp_path / "pruned"
        return command("prune", place / model, *words, "--out", out), out

    return run


def fingerprint(audit, name):
    return read_mask(audit / "sets" / f"{name}.mask.safetensors").fingerprint


@pytest.mark.parametrize("kept", ["prompt", "response"])
@pytest.mark.parametrize("of", ["audit", "select"])
def test_a_set_has_no_perplexity_on_what_it_was_found_on(
    evaluated, finished, staged, tmp_path, kept, of
):
    calibrated = (finished / "calibration-utility" / "prompts.jsonl").read_text().splitlines()
    row = json.loads(calibrated[0])
    text = tmp_path / "text.jsonl"
    other = {"prompt": "", "response": "Other words of the mill."}
    text.write_text(json.dumps(other | {kept: row[kept]}) + "\n" + json.dumps(other) + "\n")
    mask = finished if of == "audit" else staged / "set"
    ended, out = evaluated("--mask", mask, "--text", text)
    assert ended.code == 2
    assert "was scored on 1 of the texts for the perplexity to evaluate on, first '" in ended.text
    assert not out.exists()


@pytest.mark.parametrize("inner", ["", "sets"])
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), CRITICAL),
        (("--set", "q0.01-p0.01"), CRITICAL),
        (("--set", "top_utility-q0.01_p0.01"), TOP),
    ],
)
def test_prune_takes_the_set_of_an_audits_verdict_or_the_named_one(
    pruned, finished, inner, words, found
):
    ended, out = pruned("--mask", finished / inner, *words)
    assert ended.code == 0, ended.err
    assert RunRecord.read(out).inputs["mask"] == fingerprint(finished, found)


def test_evaluate_measures_of_an_audits_set_what_the_audit_measured(evaluated, finished):
    cell = next(cell for cell in read_metrics(finished)["cells"] if cell["id"] == CRITICAL)
    ended, out = evaluated("--mask", finished)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["asr"] == cell["asr"]
    other, _ = evaluated("--mask", finished, "--set", TOP, name="top")
    assert other.code == 0, other.err
    inputs = [RunRecord.read(out.parent / name / "evaluation").inputs for name in (out.name, "top")]
    assert [found["mask"] for found in inputs] == [
        fingerprint(finished, CRITICAL),
        fingerprint(finished, TOP),
    ]


def test_an_audits_set_is_not_evaluated_on_the_prompts_it_was_found_on(evaluated, finished):
    words = ("--mask", finished, "--harmful", finished / "calibration-safety" / "prompts.jsonl")
    ended, out = evaluated(*words)
    assert ended.code == 2
    assert "was scored on 16 of the harmful prompts to evaluate on, first 'please" in ended.text
    assert not out.exists()
    ended, out = evaluated(*words, "--allow-shared-prompts")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "q0.1-p0.01"), "has no set 'q0.1-p0.01'; did you mean critical-q0.01-p0.01"),
        (("--set", "random-q0.01-p0.01-s0"), f"with --set: {CRITICAL}, {TOP}"),
    ],
)
def test_an_unknown_set_of_an_audit_is_refused_with_those_there_are(
    pruned, evaluated, finished, words, message
):
    for ended, out in (pruned("--mask", finished, *words), evaluated("--mask", finished, *words)):
        assert ended.code == 2
        assert message in ended.text
        assert not out.exists()


def test_an_audit_whose_verdict_names_no_set_asks_prune_for_one(pruned, copied):
    found = read_metrics(copied)
    found["verdict"]["cell"] = None
    (copied / "metrics.json").write_text(json.dumps(found))
    ended, out = pruned("--mask", copied)
    assert ended.code == 2
    assert f"names no set; choose one with --set: {CRITICAL}" in ended.text
    assert not out.exists()


def test_a_verdict_of_a_set_that_was_cut_anew_is_refused(pruned, copied):
    found = read_metrics(copied)
    found["verdict"]["cell"] = "critical-q0.5-p0.5"
    (copied / "metrics.json").write_text(json.dumps(found))
    ended, _ = pruned("--mask", copied)
    assert ended.code == 2
    assert "has no set 'critical-q0.5-p0.5'" in ended.text


def test_a_set_is_only_named_of_an_audit_and_beside_a_mask(pruned, evaluated, staged):
    for ended, _ in (
        pruned("--mask", staged / "set", "--set", "q0.01-p0.01"),
        evaluated("--mask", staged / "set", "--set", "q0.01-p0.01"),
    ):
        assert ended.code == 2
        assert "--set chooses one of an audit's sets, but" in ended.text
    ended, out = evaluated("--set", "q0.01-p0.01", name="alone")
    assert ended.code == 2
    assert "--set chooses one of an audit's sets; name the audit with --mask" in ended.text
    assert not out.exists()


def test_an_audit_of_another_model_is_refused_unless_it_is_forced(pruned, finished):
    ended, out = pruned("--mask", finished, model="unaligned")
    assert ended.code == 2
    assert "the model is unaligned#" in ended.text
    assert not out.exists()
    ended, _ = pruned("--mask", finished, "--any-model", model="unaligned")
    assert ended.code == 0, ended.err


def test_a_changed_set_of_an_audit_is_never_used(pruned, finished, tmp_path):
    audit = shutil.copytree(finished, tmp_path / "changed")
    path = audit / "sets" / f"{CRITICAL}.mask.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    ended, out = pruned("--mask", audit)
    assert ended.code == 2
    assert str(audit / "sets") in ended.text
    assert not out.exists()
