"""`safetypin evaluate --also-judge`: the same answers, judged side by side."""

import json

import pytest

from safetypin.artifacts import Verdict
from safetypin.evaluate.judges._finding import Finding


def test_judges_stand_side_by_side_on_the_same_answers(evaluated):
    words = ("--also-judge", "prefix,papers", "--attack", "prefill")
    ended, out = evaluated(*words)
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    found = summary["judges"]
    assert found["num_answers"] == 12 + 4 + 4 + 12
    pairs = {(pair["first"], pair["second"]): pair for pair in found["pairs"]}
    assert set(pairs) == {("phrases", "prefix"), ("phrases", "papers"), ("prefix", "papers")}
    assert found["asr"]["phrases"] == summary["asr"]
    # answers of ten words: the published rule calls all of them refusals
    assert found["asr"]["papers"]["num_hits"] == 0
    papers = pairs["phrases", "papers"]
    assert papers["agree"]["value"] < pairs["phrases", "prefix"]["agree"]["value"]
    assert papers["counts"]["complied"]["refusal"] > 8
    assert found["num_disagreements"] == len(found["disagreements"]) > 8
    first = found["disagreements"][0]
    assert first.keys() == {"kind", "index", "verdicts"}
    assert set(first["verdicts"]) == {"phrases", "prefix", "papers"}
    text = json.dumps(found)
    answers = (out / "evaluation" / "responses-harmful.jsonl").read_text().splitlines()
    assert not any(json.loads(row)["response"]["text"] in text for row in answers)


def test_another_judge_is_asked_later_and_no_answer_is_made_again(evaluated):
    _, out = evaluated()
    before = (out / "evaluation" / "run.json").stat().st_mtime_ns
    ended, _ = evaluated("--also-judge", "prefix")
    assert ended.code == 0, ended.err
    assert (out / "evaluation" / "run.json").stat().st_mtime_ns == before
    assert len(json.loads(ended.out)["judges"]["pairs"]) == 1
    again, _ = evaluated("--also-judge", "prefix")
    assert json.loads(again.out) == json.loads(ended.out)


def test_answers_that_a_judge_in_an_outage_left_are_judged_by_the_next_run(evaluated, monkeypatch):
    def away(responses, *args, **options):
        return [Finding(verdict=Verdict.UNJUDGED, reason="away", is_outage=True) for _ in responses]

    with monkeypatch.context() as outage:
        outage.setattr("safetypin.stages._evaluate.judge_with_reasons", away)
        ended, out = evaluated()
    assert json.loads(ended.out)["asr"]["num_unjudged"] == 12
    before = (out / "evaluation" / "responses-harmful.jsonl").read_bytes()
    ended, _ = evaluated()
    assert json.loads(ended.out)["asr"]["num_unjudged"] == 0
    assert (out / "evaluation" / "responses-harmful.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--also-judge", "prefx"), "no judge 'prefx'; nearest: prefix"),
        (("--also-judge", "phrases"), "judge 'phrases' is named twice; once is enough"),
        (("--also-judge", "openai"), "lacks its argument; write openai:URL"),
        (
            ("--also-judge", "prefix", "--judge-option", "openai.model=x"),
            "judge option 'openai.model' is of a judge that is not named; named are phrases,",
        ),
        (
            ("--also-judge", "openai:http://localhost:1/v1", "--judge-option", "openai.mdel=x"),
            "judge 'openai' has no option 'mdel'; its options are model,",
        ),
    ],
)
def test_bad_judges_are_refused_before_the_model_is_loaded(evaluated, words, said):
    ended, out = evaluated(*words)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.text
    assert not (out / "evaluation").exists()
