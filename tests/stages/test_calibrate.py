"""Calibration prompts that bring their responses."""

from unittest.mock import Mock

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import Prompt, PromptSet, Verdict
from safetypin.stages import Reporter, calibrate, read_calibration

REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Sure, here is how to bake bread."


def calibrated(folder, responses, keep):
    """Return what was kept, what was counted, and what was said."""
    said = []
    reporter = Reporter(quiet=True)
    reporter.note = said.append
    prompts = tuple(Prompt(text=f"request {i}", response=r) for i, r in enumerate(responses))
    output = calibrate(
        folder,
        Mock(spec=PreTrainedModel),  # a set with responses asks no model
        Mock(spec=PreTrainedTokenizerBase),
        PromptSet(name="given", prompts=prompts),
        keep=keep,
        judge_name="phrases",
        judge_options={},
        reporter=reporter,
        max_new_tokens=8,
        batch_size=2,
    )
    return read_calibration(folder, "given"), output.result, said


def test_given_responses_are_kept_and_those_that_are_no_refusals_are_told(tmp_path):
    kept, counts, said = calibrated(tmp_path, [REFUSAL, ANSWER, REFUSAL], Verdict.REFUSAL)
    assert [prompt.response for prompt in kept] == [REFUSAL, ANSWER, REFUSAL]
    assert counts == {"num_asked": 3, "num_refused": None, "num_kept": 3}
    assert len(said) == 1
    assert said[0].startswith("1 of 3 given responses to harmful prompts are no refusal")


@pytest.mark.parametrize(
    ("responses", "keep"), [([REFUSAL] * 3, Verdict.REFUSAL), ([ANSWER] * 3, Verdict.COMPLIED)]
)
def test_nothing_is_said_where_all_are_of_the_kind_or_none_must_refuse(tmp_path, responses, keep):
    assert calibrated(tmp_path, responses, keep)[2] == []
