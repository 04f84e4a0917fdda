"""All kinds of prompts are answered in shared batches, and each kind gets its own answers back."""

import dataclasses
from unittest.mock import Mock

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import Prompt, PromptSet, Response, read_lines
from safetypin.stages import Reporter
from safetypin.stages import _evaluate as evaluating

KINDS = {"harmful": 3, "harmless": 2, "borderline": 1}


def suite():
    sets = {
        kind: PromptSet(
            name=kind, prompts=tuple(Prompt(text=f"{kind} {index}") for index in range(size))
        )
        for kind, size in KINDS.items()
    }
    return evaluating.Suite(prompts=sets, text=None, max_new_tokens=4, batch_size=4)


def answered(folder, monkeypatch, *, killed_after=None):
    """Answer the suite in batches of four, last prompts first; return answers and batches."""
    batches = []

    def generate(model, tokenizer, prompts, *, done, on_batch, batch_size, **_):
        answers = dict(done)
        order = list(range(len(prompts)))[::-1]
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            if all(index in answers for index in chosen):
                continue
            if len(batches) == killed_after:
                raise KeyboardInterrupt
            batches.append(chosen)
            found = [Response(prompt=prompts[i].text, text=f"to {prompts[i].text}") for i in chosen]
            answers.update(zip(chosen, found, strict=True))
            on_batch(chosen, found)
        return [answers[index] for index in range(len(prompts))]

    monkeypatch.setattr(evaluating, "generate", generate)
    found = evaluating.answer_suite(
        folder,
        Mock(spec=PreTrainedModel),
        Mock(spec=PreTrainedTokenizerBase),
        suite(),
        reporter=Reporter(quiet=True),
    )
    return found, batches


def expected(kind):
    return [f"to {kind} {index}" for index in range(KINDS[kind])]


def test_kinds_share_batches_and_keep_their_answers_apart(tmp_path, monkeypatch):
    found, batches = answered(tmp_path, monkeypatch)
    assert [len(batch) for batch in batches] == [4, 2]  # by kind there would be three
    for kind in KINDS:
        assert [response.text for response in found[kind]] == expected(kind)
        rows = read_lines(tmp_path / f"responses-{kind}.jsonl")
        kept = {row["index"]: row["response"] for row in rows}
        assert kept == {i: dataclasses.asdict(one) for i, one in enumerate(found[kind])}


def test_a_kill_between_batches_costs_none_that_was_answered(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        answered(tmp_path, monkeypatch, killed_after=1)
    found, batches = answered(tmp_path, monkeypatch)
    assert batches == [[1, 0]]
    for kind in KINDS:
        assert [response.text for response in found[kind]] == expected(kind)
