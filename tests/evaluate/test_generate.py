import functools
import logging

import pytest
import torch
from transformers import GenerationConfig, LlamaForCausalLM

from conftest import build
from safetypin.artifacts import Prompt, PromptSet, Response, UserError
from safetypin.evaluate import generate
from safetypin.evaluate._prefix import Prefix
from toys import WORDS, byte_level, word_level

TEXTS = [
    "paint the old red door",
    "say",
    "how do I wait",
    "No",
    "the river runs then",
    "first sand",
]


@pytest.fixture
def tokenizer():
    return word_level(bos=True)


@pytest.fixture
def model():
    return build("llama")


def texts(responses):
    return [response.text for response in responses]


def greedy_by_hand(model, tokenizer, text, max_new_tokens):
    """Return the most likely tokens one by one, without cache, padding or `generate`."""
    ids = list(tokenizer(f"<s> <user> {text} <bot>", add_special_tokens=False)["input_ids"])
    new = []
    for _ in range(max_new_tokens):
        with torch.no_grad():
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
        if new[-1] == tokenizer.eos_token_id:
            return new[:-1], True
    return new, False


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi3", "gpt_neox"])
def test_answers_are_the_most_likely_tokens_at_every_batch_size(family, tokenizer):
    model = build(family)
    expected = [greedy_by_hand(model, tokenizer, text, 6) for text in TEXTS]
    assert len({tuple(ids) for ids, _ in expected}) > 3
    for batch_size in (1, 4, 32):
        found = generate(model, tokenizer, TEXTS, max_new_tokens=6, batch_size=batch_size)
        for text, response, (ids, stopped) in zip(TEXTS, found, expected, strict=True):
            shown = tokenizer.decode(ids, skip_special_tokens=True)
            assert response == Response(
                prompt=text, text=shown, num_tokens=len(ids), stopped=stopped
            )


@pytest.mark.parametrize(
    ("family", "is_read_once"),
    [
        *[(family, True) for family in ("llama", "qwen3", "phi3", "gpt2", "gpt_neox", "mixtral")],
        ("gemma3", False),  # its window slides
    ],
)
def test_what_all_prompts_begin_with_is_read_once_and_changes_no_answer(
    family, is_read_once, tokenizer, monkeypatch
):
    model, begun = build(family), "the old red door runs then how do I wait "
    prompts = [begun + text for text in TEXTS]
    expected = [greedy_by_hand(model, tokenizer, prompt, 6) for prompt in prompts]
    assert len({tuple(ids) for ids, _ in expected}) > 2
    widths, own = [], model.forward

    def forward(input_ids, *args, **options):
        widths.append(tuple(input_ids.shape))
        return own(input_ids, *args, **options)

    for batch_size in (4, 6):
        with monkeypatch.context() as patch:
            patch.setattr(model, "forward", functools.wraps(own)(forward))
            found = generate(model, tokenizer, prompts, max_new_tokens=6, batch_size=batch_size)
        for response, (ids, stopped) in zip(found, expected, strict=True):
            assert response.text == tokenizer.decode(ids, skip_special_tokens=True)
            assert (response.num_tokens, response.stopped) == (len(ids), stopped)
    shared = len(begun.split()) + 2  # with the begin token and the user's mark
    assert ((1, shared) in widths) == is_read_once
    longest = max(len(prompt.split()) for prompt in prompts) + 3
    widest = max(width for rows, width in widths if rows > 1)
    assert widest == (longest - shared if is_read_once else longest)


def test_a_prefix_leaves_of_every_prompt_a_token_and_is_not_made_for_few_tokens(model):
    long = list(range(5, 15))
    assert Prefix.of(model, [long, [*long, 16], long]).ids == long[:-1]
    assert Prefix.of(model, [long[:5], [*long[:5], 16]]).cache is None
    assert Prefix.of(model, [long]).cache is None
    model.config._attn_implementation = "flash_attention_2"
    assert Prefix.of(model, [long, long]).cache is None


def test_prompts_are_taken_as_texts_as_prompts_and_as_a_set(model, tokenizer):
    prompts = [Prompt(text=text, response="not read") for text in TEXTS]
    expected = generate(model, tokenizer, TEXTS, max_new_tokens=3)
    assert generate(model, tokenizer, prompts, max_new_tokens=3) == expected
    named = PromptSet(name="some", prompts=tuple(prompts))
    assert generate(model, tokenizer, named, max_new_tokens=3) == expected
    assert generate(model, tokenizer, [], max_new_tokens=3) == []


class Scripted(LlamaForCausalLM):
    """Says the words of a script, whatever it is asked."""

    def __init__(self, config, script):
        super().__init__(config)
        self.script = script
        self.widths = []
        self.configs = []

    def generate(self, input_ids, attention_mask, generation_config):
        self.widths.append(len(input_ids))
        self.configs.append(generation_config)
        new = torch.tensor([self.script] * len(input_ids))
        return torch.cat([input_ids, new], dim=1)


def scripted(*tokens):
    return Scripted(build("llama").config, list(tokens)).eval()


def test_an_answer_ends_before_the_first_end_token(tokenizer):
    word = tokenizer.convert_tokens_to_ids("Sure")
    (found,) = generate(scripted(word, word, 2, word, 0), tokenizer, ["say"], max_new_tokens=5)
    assert found == Response(prompt="say", text="Sure Sure", num_tokens=2, stopped=True)
    (found,) = generate(scripted(2, word), tokenizer, ["say"], max_new_tokens=2)
    assert found == Response(prompt="say", text="", num_tokens=0, stopped=True)


def test_an_answer_that_the_limit_cut_says_so(tokenizer):
    word = tokenizer.convert_tokens_to_ids("Sure")
    (found,) = generate(scripted(word, word), tokenizer, ["say"], max_new_tokens=2)
    assert found == Response(prompt="say", text="Sure Sure", num_tokens=2, stopped=False)


@pytest.mark.parametrize("own", [4, [4, 3], None])
def test_the_models_own_end_tokens_end_an_answer_too(tokenizer, own):
    word = tokenizer.convert_tokens_to_ids("Sure")
    model = scripted(word, 4, word)
    model.generation_config.eos_token_id = own
    (found,) = generate(model, tokenizer, ["say"], max_new_tokens=3)
    assert found.stopped == (own is not None)
    assert found.num_tokens == (1 if own is not None else 3)
    expected = {2} | set([] if own is None else [own] if isinstance(own, int) else own)
    assert set(model.configs[0].eos_token_id) == expected


SETTINGS = {
    "do_sample": True,
    "temperature": 50.0,
    "top_k": 3,
    "top_p": 0.5,
    "num_beams": 4,
    "repetition_penalty": 9.0,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 5,
    "max_length": 7,
    "suppress_tokens": list(range(6, 40)),
    "bad_words_ids": [[11], [12]],
    "num_return_sequences": 2,
    "forced_eos_token_id": 2,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_models_own_generation_settings_change_no_answer(model, tokenizer, name):
    expected = generate(model, tokenizer, TEXTS, max_new_tokens=8)
    own = GenerationConfig(eos_token_id=2)
    setattr(own, name, SETTINGS[name])
    model.generation_config = own
    assert generate(model, tokenizer, TEXTS, max_new_tokens=8) == expected
    assert model.generation_config is own


def test_the_models_own_settings_come_back_after_an_error(model, tokenizer, monkeypatch):
    own = model.generation_config

    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(model, "generate", fail)
    with pytest.raises(ZeroDivisionError):
        generate(model, tokenizer, TEXTS, max_new_tokens=4)
    assert model.generation_config is own


def test_a_model_in_training_answers_without_dropout_and_goes_on_training(tokenizer):
    model = build("llama")
    expected = generate(model, tokenizer, TEXTS, max_new_tokens=6)
    model.train()
    model.config.attention_dropout = 0.9
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    assert generate(model, tokenizer, TEXTS, max_new_tokens=6) == expected
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_prompts_of_similar_length_share_a_batch_and_answers_keep_their_order(tokenizer):
    seen = []
    model = scripted(6)
    responses = generate(
        model,
        tokenizer,
        TEXTS,
        max_new_tokens=1,
        batch_size=2,
        on_batch=lambda indices, answers: seen.append((indices, answers)),
    )
    assert [indices for indices, _ in seen] == [[1, 3], [5, 2], [4, 0]]
    assert [response.prompt for response in responses] == TEXTS
    for indices, answers in seen:
        assert answers == [responses[index] for index in indices]


def test_what_is_done_is_not_asked_again(model, tokenizer):
    expected = generate(model, tokenizer, TEXTS, max_new_tokens=4, batch_size=2)
    known = Response(prompt="say", text="known already")
    seen = []
    found = generate(
        model,
        tokenizer,
        TEXTS,
        max_new_tokens=4,
        batch_size=2,
        done={1: known, 3: expected[3]},
        on_batch=lambda indices, _: seen.append(indices),
    )
    assert seen == [[5, 2], [4, 0]]
    assert found[1] is known
    assert [*found[:1], *found[2:]] == [*expected[:1], *expected[2:]]


def test_when_all_is_done_the_model_is_not_asked_at_all(tokenizer):
    done = {index: Response(prompt=text, text="x") for index, text in enumerate(TEXTS)}
    model = scripted(6)
    assert generate(model, tokenizer, TEXTS, done=done, max_new_tokens=4) == list(done.values())
    assert model.widths == []


def test_a_half_done_batch_is_answered_again_with_the_same_neighbours(model, tokenizer):
    seen = []
    options = {"max_new_tokens": 4, "batch_size": 3}
    expected = generate(model, tokenizer, TEXTS, **options)
    found = generate(
        model,
        tokenizer,
        TEXTS,
        done={1: expected[1]},
        on_batch=lambda indices, _: seen.append(indices),
        **options,
    )
    assert seen == [[1, 3, 5], [2, 4, 0]]
    assert found == expected


def test_a_prompt_that_leaves_no_room_for_an_answer_is_an_error(model, tokenizer):
    long = "say " * 40  # and <s> <user> <bot>: 43 of the window's 48 tokens
    assert generate(model, tokenizer, [long], max_new_tokens=5)
    with pytest.raises(UserError) as error:
        generate(model, tokenizer, ["No", long], max_new_tokens=6)
    assert str(error.value) == (
        "prompt 1 has 43 tokens and leaves no room for 6 new ones in the model's window of 48: "
        f"{long[:60]!r}; shorten it, or use fewer --max-new-tokens"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
    ],
)
def test_bad_sizes_are_errors(model, tokenizer, options, message):
    with pytest.raises(UserError) as error:
        generate(model, tokenizer, TEXTS, **options)
    assert str(error.value) == message


def test_one_text_is_not_answered_letter_by_letter(model, tokenizer):
    with pytest.raises(UserError) as error:
        generate(model, tokenizer, "say")
    assert str(error.value) == "prompts must be a list, got one text; put it into a list"


def on_a_cpu():
    torch.empty(1 << 60, dtype=torch.uint8)  # torch's own words: a RuntimeError


def on_an_accelerator():
    raise torch.OutOfMemoryError("CUDA out of memory")


def small_memory(model, monkeypatch, room, fail=on_a_cpu):
    """Let the model run out of memory for more than `room` prompts at once."""
    sizes, answer = [], model.generate

    def generate_or_fail(input_ids, **options):
        sizes.append(len(input_ids))
        if len(input_ids) > room:
            fail()
        return answer(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "generate", generate_or_fail)
    return sizes


@pytest.mark.parametrize("fail", [on_a_cpu, on_an_accelerator])
def test_out_of_memory_halves_the_batch_says_so_and_changes_no_answer(
    model, tokenizer, monkeypatch, caplog, fail
):
    expected = generate(model, tokenizer, TEXTS, max_new_tokens=4)
    sizes = small_memory(model, monkeypatch, room=2, fail=fail)
    seen = []
    with caplog.at_level(logging.WARNING, logger="safetypin"):
        found = generate(
            model,
            tokenizer,
            TEXTS,
            max_new_tokens=4,
            on_batch=lambda indices, _: seen.append(indices),
        )
    assert found == expected
    assert sizes == [6, 3, 1, 2, 3, 1, 2]
    assert seen == [[1, 3, 5, 2, 4, 0]]
    assert caplog.messages[0] == "out of memory: going on with batches of 3"


def test_memory_too_small_for_one_prompt_says_what_to_do(model, tokenizer, monkeypatch):
    small_memory(model, monkeypatch, room=0)
    with pytest.raises(UserError) as error:
        generate(model, tokenizer, TEXTS[:2], max_new_tokens=4)
    assert str(error.value) == (
        "the memory of cpu does not suffice for one prompt; use --dtype bfloat16, "
        "a smaller model or --device cpu"
    )


def test_an_error_that_is_not_of_memory_is_not_taken_for_one(model, tokenizer, monkeypatch):
    def fail():
        raise RuntimeError("shapes differ")

    sizes = small_memory(model, monkeypatch, room=0, fail=fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        generate(model, tokenizer, TEXTS, max_new_tokens=4)
    assert sizes == [6]


def test_plain_prompts_need_no_chat_template(tokenizer):
    base = word_level(template=None)
    with pytest.raises(UserError, match="--plain sends prompts as plain text"):
        generate(scripted(6), base, ["say"])
    assert len(generate(scripted(6), base, ["say"], max_new_tokens=1, plain=True)) == 1


def test_special_tokens_are_not_in_the_text():
    tokenizer = byte_level(bos=True)
    script = [*tokenizer("Sure, wait", add_special_tokens=False)["input_ids"], 4, 3]
    (found,) = generate(scripted(*script), tokenizer, ["say"], max_new_tokens=len(script))
    assert found.text == "Sure, wait"
    assert found.num_tokens == len(script)
    assert set(WORDS) >= {"Sure", "wait"}
