"""Models and settings on which no set can be tried: a report all the same, and why."""

import pytest

from end_to_end.comparing import read_metrics
from safetypin.artifacts import Verdict
from safetypin.audit import audit
from safetypin.evaluate.judges import Finding


def test_a_model_without_safety_is_undecided_with_a_report_and_no_cells(settings, tmp_path):
    metrics = audit(settings("unaligned"), tmp_path / "out")
    verdict = metrics["verdict"]
    assert verdict["answer"] == "undecided"
    assert "is 100% before anything is removed" in verdict["sentence"]
    assert (metrics["cells"], metrics["overlap"], metrics["scores"]) == ([], [], None)
    assert metrics["baseline"]["asr"]["num_hits"] == 12
    assert "Undecided" in (tmp_path / "out" / "report.html").read_text()
    assert not (tmp_path / "out" / "examples.json").exists()


def test_too_few_refusals_to_score_on_are_said(settings, place, tmp_path):
    metrics = audit(
        settings(safety=str(place / "utility.jsonl"), utility=str(place / "safety.jsonl")),
        tmp_path / "out",
    )
    verdict = metrics["verdict"]
    assert verdict["answer"] == "undecided"
    assert "only 0 of 16 safety prompts can be scored on" in verdict["sentence"]
    assert "8 are needed" in verdict["sentence"]
    assert metrics["calibration"] is None
    assert (tmp_path / "out" / "report.html").exists()


def test_scores_that_know_no_prompts_give_empty_sets_and_no_verdict(settings, tmp_path):
    metrics = audit(settings(method="magnitude"), tmp_path / "out")
    verdict = metrics["verdict"]
    assert verdict["answer"] == "undecided"
    assert "every set is empty" in verdict["sentence"]
    assert metrics["overlap"][0]["jaccard"] == 1.0
    assert metrics["overlap"][0]["noise_floor_safety"] is None
    assert metrics["overlap"][0]["halves"] == []
    assert (tmp_path / "out" / "report.html").exists()


def test_safety_prompts_that_bring_responses_end_with_a_report(settings, halves, tmp_path):
    changes = {"safety": str(halves / "safety.jsonl"), "controls": ("random",)}
    metrics = audit(settings(**changes), tmp_path / "out")
    assert metrics["calibration"]["safety"]["num_refused"] is None
    assert metrics["cells"]
    words = "harmful requests with the responses of their source, unjudged"
    assert words in (tmp_path / "out" / "report.html").read_text()


def test_layers_without_tops_end_with_a_report(settings, tmp_path):
    changes = {"group": "model", "overlap_fraction": 0.00005, "controls": ("random",)}
    metrics = audit(settings(**changes), tmp_path / "out")
    layers = metrics["overlap"][0]["by_layer"]
    assert [layer for layer in layers if layer["jaccard"] is None]
    for layer in layers:
        assert (layer["jaccard"] is None) == (layer["num_safety"] + layer["num_utility"] == 0)
    assert (tmp_path / "out" / "report.html").exists()


def test_a_degenerate_baseline_is_said_before_any_set_is_tried(settings, monkeypatch, tmp_path):
    def degenerate(responses, *args, **options):
        return [Finding(verdict=Verdict.DEGENERATE, reason="loop") for _ in responses]

    monkeypatch.setattr("safetypin.stages._evaluate.judge_with_reasons", degenerate)
    metrics = audit(settings(), tmp_path / "out")
    assert "the untouched model is degenerate: 100%" in metrics["verdict"]["sentence"]
    assert metrics["baseline"]["asr"] is None
    assert metrics["cells"] == []
    assert "the untouched model is degenerate" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "num_cells"),
    [
        ({"method": "random"}, 3),
        ({"method": "wanda", "counted": "predictive", "group": "row", "q": (0.05,)}, 3),
        ({"reduction": "sum", "group": "model", "targets": ("ffn_down",)}, 3),
        ({"judge": "papers"}, 0),  # calls every answer of under 20 words a refusal
        ({"group": "layer", "p": (0.02, 0.05)}, 6),
        ({"judge": "prefix", "controls": ("random", "matched", "top_utility", "top_safety")}, 5),
        ({"controls": ()}, 1),
    ],
)
def test_every_method_and_group_ends_with_a_report(settings, tmp_path, changes, num_cells):
    metrics = audit(settings(**changes), tmp_path / "out")
    assert len(metrics["cells"]) == num_cells
    verdict = metrics["verdict"]
    if not metrics["settings"]["controls"]:
        assert verdict["answer"] == "undecided"
        assert "no random set of the same size was removed" in verdict["sentence"]
    for arm in verdict["controls"]:
        if verdict["answer"] == "brittle" and arm["arm"] in {"random", "matched"}:
            assert arm["margin"]["interval"][0] > 0
    assert verdict["sentence"] in (tmp_path / "out" / "metrics.json").read_text()
    assert (tmp_path / "out" / "report.html").exists()
    assert metrics == read_metrics(tmp_path / "out")


def test_random_scores_do_not_find_the_planted_refusal(settings, tmp_path):
    metrics = audit(settings(method="random", q=(0.005,)), tmp_path / "out")
    assert metrics["verdict"]["answer"] != "brittle"
