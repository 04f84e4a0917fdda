"""Greedy coordinate gradient: the gradient is the loss's, the loss falls, the suffix survives."""

import pytest
import torch

from conftest import build
from safetypin.artifacts import Prompt, PromptSet, UserError
from safetypin.evaluate import GcgSettings, find_suffix
from safetypin.evaluate._gcg import _Search
from toys import byte_level, sentence_piece

REQUESTS = ["paint the old red door", "say how do I wait"]
PROMPTS = PromptSet(name="p", prompts=tuple(Prompt(text=text) for text in REQUESTS))
SMALL = {"num_tokens": 4, "num_candidates": 24, "top_k": 16, "target": "Sure , first"}


@pytest.fixture(scope="module")
def tokenizer():
    made = byte_level(template="<user> {{ messages[-1]['content'] }} <bot> ")
    made.model_max_length = 64
    return made


def model_of(family, tokenizer):
    model = build(family)
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            torch.manual_seed(1)
            table.weight.normal_(std=0.4)
    return model.eval()


@pytest.fixture(scope="module")
def model(tokenizer):
    return model_of("llama", tokenizer)


def loss_by_hand(model, tokenizer, suffix, target="Sure , first"):
    """Return the mean loss of the target, each request as one text, without batches."""
    losses = []
    for request in REQUESTS:
        head = tokenizer(f"<user> {request} {suffix} <bot> ", add_special_tokens=False)["input_ids"]
        tail = tokenizer(target, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        rows = logits[len(head) - 1 : -1]
        losses.append(-sum(float(row[t]) for row, t in zip(rows, tail, strict=True)) / len(tail))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "qwen3"])
def test_the_loss_falls_and_is_that_of_the_text_of_the_suffix(family, tokenizer):
    model = model_of(family, tokenizer)
    steps = find_suffix(model, tokenizer, PROMPTS, GcgSettings(num_steps=8, **SMALL))
    losses = [step.loss for step in steps]
    assert len(steps) == 9
    assert steps[0].suffix == "! ! ! !"
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.05
    for step in (steps[0], steps[-1]):
        assert step.loss == pytest.approx(loss_by_hand(model, tokenizer, step.suffix), abs=1e-4)


def test_the_gradient_is_that_of_the_loss(model, tokenizer):
    search = _Search(model, tokenizer, REQUESTS, GcgSettings(**SMALL))
    (case, _) = search._cases("! ! ! !")
    gradient = search._gradient(case)
    assert gradient.shape == (len(case.suffix), 16)
    ids = torch.cat([*case, search._target])[None]
    embedded = model.get_input_embeddings()(ids).detach()

    def loss(place, width, change):
        moved = embedded.clone()
        moved[0, len(case.before) + place, width] += change
        with torch.no_grad():
            return float(search._loss(model(inputs_embeds=moved).logits)[0])

    for place, width in ((0, 0), (1, 5), (len(case.suffix) - 1, 15)):
        slope = (loss(place, width, 1e-2) - loss(place, width, -1e-2)) / 2e-2
        assert float(gradient[place, width]) == pytest.approx(slope, abs=2e-3)


def test_swaps_that_the_gradient_names_beat_random_ones(tokenizer):
    """With as many candidates, top 8 of the gradient against all allowed tokens."""
    won = 0
    for seed in range(6):
        model = model_of("llama", tokenizer)
        torch.manual_seed(100 + seed)
        with torch.no_grad():
            model.get_input_embeddings().weight.normal_(std=0.4)
        named, random = (
            find_suffix(
                model,
                tokenizer,
                PROMPTS,
                GcgSettings(num_steps=6, **SMALL | {"top_k": top_k, "num_candidates": 12}),
            )[-1].loss
            for top_k in (8, 100_000)
        )
        won += named < random
    assert won >= 5


def test_a_search_that_goes_on_finds_the_same(model, tokenizer):
    settings, seen = GcgSettings(num_steps=5, **SMALL), []
    whole = find_suffix(model, tokenizer, PROMPTS, settings, on_step=seen.append)
    assert seen == whole
    seen.clear()
    again = find_suffix(model, tokenizer, PROMPTS, settings, done=whole[:3], on_step=seen.append)
    assert again == whole
    assert seen == whole[3:]
    other = GcgSettings(num_steps=5, **SMALL, seed=1)
    assert find_suffix(model, tokenizer, PROMPTS, other) != whole


def test_the_model_is_left_as_it_was(model, tokenizer):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_suffix(model, tokenizer, PROMPTS, GcgSettings(num_steps=2, **SMALL))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_suffix_is_one_line_of_printable_text_and_reads_as_its_tokens(model, tokenizer):
    steps = find_suffix(model, tokenizer, PROMPTS, GcgSettings(num_steps=8, **SMALL))
    search = _Search(model, tokenizer, REQUESTS, GcgSettings(**SMALL))
    for step in steps:
        assert step.suffix.isascii()
        assert step.suffix.isprintable()
        cases = search._cases(step.suffix)
        assert torch.equal(cases[0].suffix, cases[1].suffix)
        assert len(cases[0].suffix) == len(search._cases("! ! ! !")[0].suffix)


def test_tokens_that_a_file_cannot_hold_are_never_drawn(model, tokenizer):
    search = _Search(model, tokenizer, REQUESTS, GcgSettings(**SMALL))
    texts = tokenizer.batch_decode([[int(token)] for token in search._allowed])
    assert all(text.strip() and text.isascii() and "\n" not in text for text in texts)
    assert not set(search._allowed.tolist()) & set(tokenizer.all_special_ids)
    assert len(texts) > 90


def test_a_tokenizer_that_writes_a_space_before_every_text_is_no_hindrance():
    tokenizer = sentence_piece(template="<user> {{ messages[-1]['content'] }} <bot> ")
    tokenizer.model_max_length = 64
    settings = GcgSettings(num_steps=2, **SMALL | {"target": "first"})
    steps = find_suffix(model_of("llama", tokenizer), tokenizer, PROMPTS, settings)
    assert steps[-1].loss <= steps[0].loss


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_tokens": 0}, "num_tokens must be at least 1, got 0"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"top_k": -1}, "top_k must be at least 1, got -1"),
        ({"target": "  "}, "the target is empty; give a text such as 'Sure, here is'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        GcgSettings(**settings)


def test_a_suffix_that_does_not_fit_is_refused(model, tokenizer):
    with pytest.raises(UserError, match=r"has \d+ tokens, the model's window 64; use shorter"):
        find_suffix(model, tokenizer, PROMPTS, GcgSettings(num_tokens=60))


def test_a_template_that_changes_the_request_is_refused(model):
    tokenizer = byte_level(template="<user> {{ messages[-1]['content'] | upper }} <bot> ")
    with pytest.raises(UserError, match="the chat template changes the request 'paint the old"):
        find_suffix(model, tokenizer, PROMPTS, GcgSettings(num_steps=1, **SMALL))


def test_a_slow_tokenizer_is_refused(model, tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(UserError, match="does not tell where its tokens stand in a text"):
        find_suffix(model, tokenizer, PROMPTS, GcgSettings())
