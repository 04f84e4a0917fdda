import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safetypin.artifacts import Prompt, PromptSet, UserError
from safetypin.prompts import COUNTED, batches, encode, load_prompts, render, window
from toys import SPECIAL, TOKENIZERS, WORDS, byte_level, word_level

ASKED = Prompt(text="paint the door", response="Sure , first sand it")
SHORT = Prompt(text="say", response="No .")


def one(tokenizer, prompt=ASKED, **options):
    (batch,) = batches([prompt], tokenizer, **options)
    return batch


def places(batch, row=0):
    return batch.counted[row].nonzero().flatten().tolist()


# The text is <s> <user> paint the door <bot> Sure , first sand it: 6 tokens, then 5.
@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        ("response", [6, 7, 8, 9, 10]),
        ("predictive", [5, 6, 7, 8, 9]),
        ("prompt", [1, 2, 3, 4, 5]),
        ("last", [5]),
        ("all", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_each_kind_counts_exactly_its_positions(counted, expected):
    batch = one(word_level(bos=True), counted=counted)
    assert places(batch) == expected
    assert batch.response[0].nonzero().flatten().tolist() == [6, 7, 8, 9, 10]


def test_the_begin_token_counts_only_where_asked():
    tokenizer = word_level(bos=True)
    assert places(one(tokenizer, counted="prompt", count_bos=True)) == [0, 1, 2, 3, 4, 5]
    assert places(one(tokenizer, counted="all", count_bos=True)) == list(range(11))


@pytest.mark.parametrize(("counted", "end"), [("prompt", 5), ("all", 10)])
def test_without_a_begin_token_the_first_takes_its_place(counted, end):
    assert places(one(word_level(), counted=counted)) == list(range(1, end))
    assert places(one(word_level(), counted=counted, count_bos=True)) == list(range(end))


def test_a_token_alone_in_its_text_counts():
    assert places(one(word_level(), Prompt(text="say"), counted="prompt", plain=True)) == [0]


def test_the_last_token_counts_even_where_it_is_the_begin_token():
    tokenizer = word_level(bos=True)
    batch = one(tokenizer, Prompt(text="", response="No ."), counted="last", plain=True)
    assert places(batch) == [0]


def test_the_tokens_that_predict_a_response_are_those_whose_next_is_in_it():
    batch = one(byte_level(bos=True), counted="predictive")
    response = one(byte_level(bos=True), counted="response")
    assert places(batch) == [place - 1 for place in places(response)]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("plain", [False, True])
def test_the_counted_response_tokens_decode_to_the_response(name, side, plain):
    tokenizer = TOKENIZERS[name]()
    prompts = [ASKED, SHORT, Prompt(text="how do I wait", response="the river runs")]
    (batch,) = batches(prompts, tokenizer, plain=plain, padding_side=side)
    for row, prompt in enumerate(prompts):
        ids = batch.input_ids[row][batch.counted[row]]
        assert tokenizer.decode(ids) == prompt.response


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(
        st.tuples(
            st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join),
            st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join),
        ),
        min_size=1,
        max_size=7,
    ),
    batch_size=st.integers(1, 8),
    side=st.sampled_from(["left", "right"]),
    counted=st.sampled_from(COUNTED),
)
def test_padding_and_batch_size_change_no_token_and_no_mark(texts, batch_size, side, counted):
    tokenizer = word_level(bos=True)
    prompts = [Prompt(text=text, response=response) for text, response in texts]
    options = {"counted": counted, "batch_size": batch_size, "padding_side": side}
    found = batches(prompts, tokenizer, **options)
    assert [len(batch.input_ids) for batch in found[:-1]] == [batch_size] * (len(found) - 1)
    rows = [
        (batch.input_ids[row][real].tolist(), batch.counted[row][real].tolist())
        for batch in found
        for row in range(len(batch.input_ids))
        for real in [batch.attention_mask[row].bool()]
    ]
    alone = [one(tokenizer, prompt, counted=counted) for prompt in prompts]
    assert rows == [(b.input_ids[0].tolist(), b.counted[0].tolist()) for b in alone]
    for batch in found:
        assert not (batch.counted & ~batch.attention_mask.bool()).any()


def test_left_and_right_padding_are_on_their_sides():
    tokenizer = word_level()
    (right,) = batches([ASKED, SHORT], tokenizer)
    (left,) = batches([ASKED, SHORT], tokenizer, padding_side="left")
    assert right.attention_mask[1].tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert left.attention_mask[1].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert right.input_ids[1, 5:].tolist() == [0] * 5
    assert left.position_ids[1].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3, 4]


def test_labels_are_the_response_and_nothing_else():
    batch = one(word_level(), counted="last")
    first = len(SPECIAL)
    expected = [first + WORDS.index(word) for word in ASKED.response.split()]
    assert batch.labels[0].tolist() == [-100] * 5 + expected


def test_a_batch_moves_to_a_device_as_a_whole():
    batch = one(word_level()).to("meta")
    assert {tensor.device.type for tensor in batch} == {"meta"}
    assert one(word_level())._replace(response=None).to("meta").response is None


def test_the_request_is_written_by_the_chat_template():
    assert render(word_level(bos=True), "paint it") == "<s><user> paint it <bot> "
    assert render(word_level(), "paint it", plain=True) == "paint it\n"
    assert render(word_level(), "paint it", plain=True, system="wait") == "wait\n\npaint it\n"


DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<sys> be kind {% endif %}"
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"
)


def test_an_empty_system_prompt_takes_the_place_of_a_templates_own():
    tokenizer = word_level()
    tokenizer.chat_template = DEFAULT
    assert render(tokenizer, "paint it") == "<sys> be kind <user> paint it "
    assert render(tokenizer, "paint it", system="") == "<system>  <user> paint it "
    assert render(tokenizer, "paint it", plain=True, system="") == "paint it\n"


def test_the_begin_token_is_there_once_with_a_template_and_without():
    tokenizer = word_level(bos=True)
    for plain in (False, True):
        head, _ = encode(tokenizer, ASKED, plain=plain)
        assert head.count(tokenizer.bos_token_id) == 1
        assert head[0] == tokenizer.bos_token_id


def test_a_plain_prompt_is_not_ended_by_a_tokenizer_that_ends_every_text():
    from tokenizers import processors

    tokenizer = word_level(bos=True)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    head, tail = encode(tokenizer, SHORT, plain=True)
    assert (tokenizer.decode(head), tokenizer.decode(tail)) == ("<s> say", "No .")


def test_a_plain_prompt_without_any_token_is_allowed():
    batch = one(word_level(), Prompt(text="", response="No ."), plain=True)
    assert places(batch) == [0, 1]


def test_a_tokenizer_without_chat_template_is_told_to_go_plain():
    with pytest.raises(UserError) as error:
        batches([ASKED], word_level(template=None))
    assert str(error.value) == (
        "the tokenizer has no chat template, so this is probably a base model; "
        "--plain sends prompts as plain text"
    )


def test_a_template_without_system_prompts_says_so():
    with pytest.raises(UserError) as error:
        batches([ASKED], word_level(), system="wait")
    assert str(error.value) == (
        "the chat template refuses the prompt (no system prompt here); "
        "leave the system prompt out or use --plain"
    )


def test_a_template_that_refuses_every_prompt_says_so():
    with pytest.raises(UserError, match=r"refuses the prompt \(not you\); use --plain$"):
        batches([ASKED], word_level(template="{{ raise_exception('not you') }}"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"counted": "reponse"},
            "unknown counted tokens 'reponse'; choose one of response, prompt, last, all, "
            "predictive",
        ),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": -8}, "batch_size must be at least 1, got -8"),
        ({"padding_side": "Left"}, "padding_side must be left or right, got 'Left'"),
        (
            {"max_length": 9},
            "prompt 0 has 10 tokens with its response, the window has 9; "
            "shorten it: 'paint the door'",
        ),
    ],
)
def test_bad_options_are_errors(options, message):
    with pytest.raises(UserError) as error:
        batches([ASKED], word_level(), **options)
    assert str(error.value) == message


def test_a_prompt_of_the_window_fits_and_one_token_more_does_not():
    tokenizer = word_level(bos=True)
    room = tokenizer.model_max_length - 5
    assert places(one(tokenizer, Prompt(text="say " * room, response="No .")))
    with pytest.raises(UserError, match="prompt 1 has 49 tokens with its response"):
        batches([SHORT, Prompt(text="say " * (room + 1), response="No .")], tokenizer)


@pytest.mark.parametrize("counted", ["response", "predictive"])
@pytest.mark.parametrize("response", [None, ""])
def test_a_prompt_without_a_response_has_none_to_count(counted, response):
    with pytest.raises(UserError) as error:
        batches([ASKED, Prompt(text="say", response=response)], word_level(), counted=counted)
    assert str(error.value) == (
        f"prompt 1 has no response, but {counted} tokens are counted; give a file with a "
        "response column, or let the model answer first"
    )


def test_prompts_without_responses_do_for_prompt_tokens():
    prompts = PromptSet(name="asked", prompts=(Prompt(text="say"), Prompt(text="paint it")))
    (batch,) = batches(prompts, word_level(), counted="all")
    assert batch.counted.sum(dim=1).tolist() == [2, 3]
    assert not batch.response.any()


def test_a_tokenizer_without_padding_token_pads_with_token_zero():
    tokenizer = word_level()
    tokenizer.pad_token = None
    (batch,) = batches([ASKED, SHORT], tokenizer)
    assert batch.input_ids[1, 5:].tolist() == [0] * 5


def test_the_window_is_the_smallest_limit_that_is_known(tiny_llama):
    tokenizer = word_level()
    assert window(tiny_llama, tokenizer) == 48
    tokenizer.model_max_length = int(1e30)
    assert window(tiny_llama, tokenizer) == 64


def test_the_window_of_gpt2_is_known_under_its_own_name(tiny_model):
    tokenizer = word_level()
    tokenizer.model_max_length = int(1e30)
    assert window(tiny_model("gpt2"), tokenizer) == 64


def test_batches_are_ordinary_integers_and_flags():
    batch = one(word_level())
    assert batch.input_ids.dtype == torch.long
    assert batch.counted.dtype == torch.bool


def test_a_prompt_that_was_shuffled_and_halved_is_named_by_its_row(tmp_path):
    path = tmp_path / "some.jsonl"
    rows = [{"prompt": f"say {i}", "response": "No ." if i != 5 else ""} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = load_prompts(path).shuffled(3).halves()
    (half,) = (part for part in parts if "say 5" in [prompt.text for prompt in part])
    assert [prompt.text for prompt in half].index("say 5") != 5
    with pytest.raises(UserError, match=r"^row 5 of 'some.jsonl' has no response, but response"):
        batches(half, word_level())
    with pytest.raises(UserError, match=r"^row 5 of 'some.jsonl' has \d+ tokens with its response"):
        batches([p for p in half if p.text == "say 5"], word_level(), counted="all", max_length=1)


def test_where_a_prompt_was_read_tells_no_two_prompts_apart():
    one, other = Prompt(text="a", where="row 1 of 'x'"), Prompt(text="a", where="row 2 of 'y'")
    assert (one == other, hash(one) == hash(other)) == (True, True)
    assert (one.named(7), Prompt(text="a").named(7)) == ("row 1 of 'x'", "prompt 7")
