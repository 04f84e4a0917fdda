"""`safetypin evaluate --zero-shot` and `--gsm8k`: utility beside the attacks, task by task."""

import json
import signal

import pytest

from safetypin.artifacts import RunRecord

ONE = ("--zero-shot", "statements-320", "--limit", "20")


def test_the_accuracy_of_each_task_has_its_interval_and_its_standard_error(evaluated):
    ended, out = evaluated(*ONE, "--seed", "3")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    found = json.loads((out / "summary.json").read_text())["zero_shot"]
    task = found["tasks"]["statements-320"]
    assert task["metric"] == "acc_norm"
    assert task["accuracy"]["num_judged"] == 20
    low, high = task["accuracy"]["interval"]
    assert low <= task["accuracy"]["value"] <= high
    assert found["mean"] == task["accuracy"]["value"]
    assert found["standard_error"] == task["standard_error"] > 0


def test_every_arm_gets_the_same_documents(evaluated, staged):
    _, whole = evaluated(*ONE, name="whole")
    _, masked = evaluated(*ONE, "--mask", staged / "set", name="masked")
    rows = [
        RunRecord.read(out / "zero-shot").result["tasks"][0]["documents"] for out in (whole, masked)
    ]
    assert rows[0] == rows[1]
    assert len(set(rows[0])) == 20


def test_a_killed_run_goes_on_at_the_next_task(nursery, place, tmp_path):
    words = ["evaluate", str(place / "model"), "--quiet"]
    words += ["--harmless", "", "--borderline", "", "--text", "", "--max-new-tokens", "2"]
    words += ["--harmful", str(place / "attack.jsonl"), "--limit", "4"]
    words += ["--zero-shot", "statements-320,bbq-300"]
    trap = {"at": "tasks.jsonl", "line": 2, "do": "kill"}
    out = tmp_path / "killed"
    assert nursery.run(*words, "--out", out, log=tmp_path / "log", trap=trap) == -signal.SIGKILL
    assert not (out / "zero-shot" / "run.json").exists()
    kept = (out / "zero-shot" / "tasks.jsonl").read_text().splitlines()[0]
    assert nursery.run(*words, "--out", out, log=tmp_path / "log") == 0
    lines = (out / "zero-shot" / "tasks.jsonl").read_text().splitlines()
    assert lines[0] == kept
    assert len(lines) == 2
    whole = tmp_path / "whole"
    assert nursery.run(*words, "--out", whole, log=tmp_path / "log") == 0
    records = [RunRecord.read(folder / "zero-shot") for folder in (out, whole)]
    assert records[0].result == records[1].result


@pytest.fixture
def problems(tmp_path):
    def write(*responses):
        rows = [
            {"prompt": f"please greet the noun{place}", "response": response}
            for place, response in enumerate(responses)
        ]
        path = tmp_path / "problems.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_problems_are_solved_by_their_last_number(evaluated, problems):
    ended, out = evaluated("--gsm8k", problems("#### 3", "it is 4"), "--gsm8k-tokens", "4")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)["problems"]
    assert (found["num_hits"], found["num_judged"]) == (0, 2)
    assert RunRecord.read(out / "problems").inputs["suite"]["max_new_tokens"] == 4
    assert len((out / "problems" / "responses-problems.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--limit", "3"), "--limit is given without what it is for"),
        (("--gsm8k-tokens", "3"), "--gsm8k-tokens is given without what it is for"),
        (("--zero-shot", "bbq-300,bbq-300"), "task 'bbq-300' is named twice"),
        (("--zero-shot", ","), "no task named; choose among boolq"),
    ],
)
def test_bad_tasks_are_refused_before_the_model_is_loaded(evaluated, words, said):
    ended, out = evaluated(*words)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.text
    assert not (out / "evaluation").exists()


def test_a_problem_without_a_number_is_refused(evaluated, problems):
    ended, out = evaluated("--gsm8k", problems("#### 3", "none"))
    assert ended.code == 2
    assert "solution 1 holds no number" in ended.text
    assert not (out / "evaluation").exists()
