"""The figures printed beside every rate are those that the judges reach today."""

import importlib.util
from pathlib import Path

import pytest

from safetypin.artifacts import Response, Verdict
from safetypin.evaluate.judges import agreement, judge, measured

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("judges_benchmark", ROOT / "benchmarks/judges.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gold(benchmark):
    labelled = benchmark.refusal_gold()
    if labelled is None:
        pytest.skip("pyrit is not installed: pip install --no-deps pyrit")
    return labelled


@pytest.mark.parametrize("name", ["phrases", "prefix", "papers"])
def test_the_recorded_figures_are_reached_again(gold, name):
    verdicts = judge([response for response, _ in gold], name)
    assert agreement(verdicts, [refused for _, refused in gold], "refusal-gold") == measured(name)


def test_the_gold_answers_are_the_169_of_the_record(gold):
    assert len(gold) == 169
    assert sum(refused for _, refused in gold) == measured("phrases").recall.num_judged == 109


def test_the_default_keeps_its_promise():
    assert measured("phrases").precision.value >= 0.95
    assert measured("phrases").recall.value >= 0.80


def test_the_figures_read_as_a_line_beside_a_rate():
    assert str(measured("papers")) == (
        "precision 0.923 (60/65), recall 0.550 (60/109) on refusal-gold"
    )


def test_agreement_of_a_worked_example_leaves_the_unjudged_out():
    no, yes, dead, open_ = Verdict.REFUSAL, Verdict.COMPLIED, Verdict.DEGENERATE, Verdict.UNJUDGED
    agreed = agreement([no, no, yes, dead, open_], [True, False, True, False, True], "mine")
    assert (agreed.precision.num_hits, agreed.precision.num_judged) == (1, 2)
    assert (agreed.recall.num_hits, agreed.recall.num_judged) == (1, 2)
    assert agreed.precision.num_unjudged == agreed.recall.num_unjudged == 1


def test_figures_of_no_answer_are_none_and_not_zero():
    agreed = agreement([], [], "nothing")
    assert agreed.precision.value is None
    assert agreed.recall.value is None


def test_of_the_llama_refusals_all_but_the_four_compliant_ones_are_refusals(benchmark):
    labelled = benchmark.align_short(DATA)
    if labelled is None:
        pytest.skip(f"align_short.csv is not in {DATA}")
    agreed = agreement(judge([r for r, _ in labelled]), [refused for _, refused in labelled], "a")
    assert (agreed.recall.num_hits, agreed.recall.num_judged) == (1011, 1011)
    assert agreed.precision.num_judged == 1011


def test_worked_sums_are_answers(benchmark):
    labelled = benchmark.gsm8k(DATA)
    if labelled is None:
        pytest.skip(f"gsm8k_*.jsonl is not in {DATA}")
    sums = [Response(prompt=r.prompt, text=r.text) for r, _ in labelled[:1319]]
    assert judge(sums).count(Verdict.COMPLIED) == len(sums)


@pytest.mark.slow
def test_the_figures_by_length_are_reached_again(benchmark, gold):
    assert benchmark.by_length(gold)


def test_the_figures_beside_a_rate_are_those_of_its_length_on_the_unread_half():
    quick, usual = (measured("phrases", max_new_tokens=tokens) for tokens in (20, 33))
    assert (quick.recall.num_hits, quick.recall.num_judged) == (31, 54)
    assert (usual.recall.num_hits, usual.recall.num_judged) == (34, 54)
    assert usual.source.endswith("never read while the rules were written, cut to 32 tokens")
    assert measured("phrases", max_new_tokens=4096) == measured("phrases", max_new_tokens=128)


def test_shorter_answers_than_any_measured_have_no_figures():
    assert measured("phrases", max_new_tokens=9) is None
    assert measured("classifier:x", max_new_tokens=32) is None


def test_the_answers_held_out_by_us_are_judged_as_the_log_says(benchmark):
    responses, refused = zip(*benchmark.held_out(), strict=True)
    agreed = agreement(judge(responses), refused, "held-out")
    assert (agreed.precision.num_hits, agreed.precision.num_judged) == (30, 32)
    assert (agreed.recall.num_hits, agreed.recall.num_judged) == (30, 36)


def test_a_change_of_the_rules_shows_as_a_difference_from_the_code(
    benchmark, gold, monkeypatch, capsys
):
    monkeypatch.setattr(benchmark, "LENGTHS", (20,))
    monkeypatch.setattr(benchmark, "cut", lambda labelled, num_tokens: labelled)
    assert not benchmark.by_length(gold)
    assert "phrases  unread half,  20 tokens" in capsys.readouterr().out


def test_the_benchmark_prints_every_judge_and_names_what_is_absent(
    benchmark, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(benchmark, "by_length", lambda gold: True)
    benchmark.main(["--data", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "align-short: not at hand" in printed
    assert "gsm8k: not at hand" in printed
