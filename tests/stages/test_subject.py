"""What every stage on a model depends on."""

import torch

from conftest import build
from safetypin.stages import model_inputs
from toys import word_level


def test_another_template_or_precision_is_another_input():
    model, tokenizer = build("llama"), word_level()
    first = model_inputs(model, tokenizer, "tiny#1")
    assert model_inputs(model, word_level(), "tiny#1") == first
    tokenizer.chat_template = tokenizer.chat_template.replace("<bot>", "<bot> so")
    assert model_inputs(model, tokenizer, "tiny#1") != first
    assert model_inputs(model.to(torch.bfloat16), word_level(), "tiny#1") != first
    assert model_inputs(build("llama"), word_level(), "tiny#2") != first
