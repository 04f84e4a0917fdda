"""The data that the refusal adapter is trained on: the same whenever it is trained anew."""

import importlib.util
import json
from pathlib import Path

import pytest

from safetypin.artifacts import Prompt, PromptSet

SCRIPT = Path(__file__).parents[1] / "scripts" / "train_refusal_adapter.py"


@pytest.fixture
def script():
    """The training script as a module."""
    spec = importlib.util.spec_from_file_location("train_refusal_adapter", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_answers_to_train_on_are_those_of_the_file_whatever_the_judge_says(script, monkeypatch):
    def judge(*_):
        raise AssertionError("the judge of today chooses nothing")

    monkeypatch.setattr(script, "judge", judge)
    answers = script.usable_answers()
    assert len(answers) == 3713
    rows = [json.loads(line) for line in script.ANSWERS.read_text("utf-8").split("\n") if line]
    left_out = [row["left_out"] for row in rows if "left_out" in row]
    assert (left_out.count("refusal"), left_out.count("degenerate")) == (35, 35)
    assert len(answers) + len(left_out) == len(rows)


@pytest.fixture
def data(tmp_path):
    """The benchmarks that are read from files, of one prompt each."""
    (tmp_path / "advbench.txt").write_text("Nothing of the kind\n")
    for name in ("harmful_train", "harmful_val", "harmless_train"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "Nothing of the kind"}\n')
    return tmp_path


def benchmarks(monkeypatch, script, **texts):
    def load(name):
        prompt = Prompt(text=texts.get(name, "Nothing of the kind"))
        return PromptSet(name=name, prompts=(prompt,))

    monkeypatch.setattr(script, "load_prompts", load)


def test_the_check_passes_where_no_training_prompt_is_in_a_benchmark(
    script, data, monkeypatch, capsys
):
    benchmarks(monkeypatch, script)
    script.check(data)
    shown = capsys.readouterr().out
    for name in ("harmbench", "strongreject", "do-not-answer", "overrefusal", "contrast-pairs"):
        assert f"{name}: 0 of 1 shared" in shown


@pytest.mark.parametrize("name", ["harmbench", "strongreject", "overrefusal"])
def test_the_check_fails_where_a_named_benchmark_holds_a_training_prompt(
    script, data, monkeypatch, capsys, name
):
    benchmarks(monkeypatch, script, **{name: script.read_prompts("harmful")[7].upper()})
    with pytest.raises(SystemExit) as ended:
        script.check(data)
    assert ended.value.code == 1
    assert f"{name}: 1 of 1 shared" in capsys.readouterr().out
