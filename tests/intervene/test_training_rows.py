import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safetypin.artifacts import Prompt, PromptSet, UserError
from safetypin.intervene import training_rows
from safetypin.intervene._data import end_tokens, padded
from toys import SPECIAL, TOKENIZERS, WORDS, word_level

END = SPECIAL.index("</s>")
ASKED = Prompt(text="paint the door", response="Sure , first sand it")


def ids(text):
    return [len(SPECIAL) + WORDS.index(word) for word in text.split()]


def rows_of(*prompts, max_length=48, tokenizer=None, **options):
    data = PromptSet(name="doors", prompts=prompts)
    return training_rows(tokenizer or word_level(bos=True), data, max_length, **options)


def labels_of(rows):
    return [label for row in rows.rows for label in row["labels"] if label != -100]


def test_a_worked_example():
    (row,) = rows_of(ASKED).rows
    head = [1, SPECIAL.index("<user>"), *ids("paint the door"), SPECIAL.index("<bot>")]
    tail = [*ids("Sure , first sand it"), END]
    assert row["input_ids"] == head + tail
    assert row["labels"] == [-100] * len(head) + tail


@pytest.mark.parametrize("name", TOKENIZERS)
def test_exactly_the_response_and_one_end_token_are_learnt(name):
    tokenizer = TOKENIZERS[name]()
    rows = rows_of(ASKED, tokenizer=tokenizer)
    response = tokenizer(ASKED.response, add_special_tokens=False)["input_ids"]
    assert labels_of(rows) == [*response, tokenizer.eos_token_id]
    assert rows.num_tokens == len(response) + 1


@pytest.mark.parametrize("ending", ["", " </s>", " </s> </s>"])
def test_a_response_that_has_its_end_token_gets_no_second_one(ending):
    prompt = Prompt(text="paint the door", response=f"Sure{ending}")
    assert labels_of(rows_of(prompt)) == [*ids("Sure"), END]


def test_the_end_token_is_the_one_that_the_chat_template_writes():
    template = (
        "{% for message in messages %}<user> {{ message['content'] }}<bot>\n{% endfor %}"
        "{% if add_generation_prompt %}<user> {% endif %}"
    )
    tokenizer = word_level(template=template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<bot>"]})
    turn_end = SPECIAL.index("<bot>")
    assert end_tokens(tokenizer) == (turn_end, END)
    assert end_tokens(tokenizer, plain=True) == (END,)
    assert labels_of(rows_of(ASKED, tokenizer=tokenizer))[-1] == turn_end


def test_a_template_that_leaves_answers_out_does_not_choose_the_end_token():
    template = "{% for message in messages[:1] %}<user> {{ message['content'] }} {% endfor %}"
    tokenizer = word_level(template=template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<user>"]})
    assert end_tokens(tokenizer) == (END,)


def test_the_template_writes_the_system_prompt_and_plain_leaves_the_template_out():
    with pytest.raises(UserError, match="no system prompt here"):
        rows_of(ASKED, system="say")
    (row,) = rows_of(ASKED, plain=True).rows
    assert row["input_ids"] == [1, *ids("paint the door"), *ids(ASKED.response), END]


def test_running_text_is_learnt_from_its_first_word_on():
    text = Prompt(text="", response="No river runs")
    (row,) = rows_of(text).rows
    assert row == {
        "input_ids": [1, *ids("No river runs"), END],
        "labels": [-100, *ids("No river runs"), END],
    }
    without_begin = rows_of(text, tokenizer=word_level())
    assert without_begin.rows[0]["input_ids"] == [*ids("No river runs"), END]
    assert without_begin.num_tokens == 3, "nothing predicts the first word"


def test_responses_that_are_cut_off_are_counted_and_have_no_end_token():
    long = Prompt(text="paint the door", response="Sure , first sand it then wait . No river runs")
    lost = Prompt(text="how do I paint the old red door " * 2, response="No .")
    rows = rows_of(ASKED, long, lost, max_length=12)
    assert (rows.num_examples, rows.num_cut, rows.num_dropped) == (3, 1, 1)
    assert len(rows.rows) == 2
    assert rows.rows[1]["labels"] == [-100] * 6 + ids("Sure , first sand it then")
    assert rows.note == (
        "of 3 examples, 1 had the end of their response cut off and 1 were left out because their "
        "prompt alone is too long"
    )
    assert rows_of(ASKED).note is None


def test_a_response_that_just_fits_is_not_cut():
    rows = rows_of(ASKED, max_length=12)
    assert (rows.num_cut, rows.rows[0]["labels"][-1]) == (0, END)
    assert rows_of(ASKED, max_length=11).num_cut == 1


def test_data_whose_responses_are_all_cut_off_is_refused():
    with pytest.raises(UserError) as error:
        rows_of(ASKED, ASKED, max_length=6)
    assert str(error.value) == (
        "all 2 responses of 'doors' are cut off: the shortest prompt has 6 tokens, and a row at "
        "most 6; raise max_length (--max-length), or shorten the prompts"
    )


def test_data_without_a_response_is_refused_with_its_number():
    with pytest.raises(UserError) as error:
        rows_of(ASKED, Prompt(text="say"), Prompt(text="say", response=""))
    assert str(error.value) == (
        "2 of the 3 examples of 'doors' have no response, first number 1; give a file with a "
        "filled `response` column to train on"
    )


def test_a_tokenizer_without_an_end_token_is_refused():
    tokenizer = word_level()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"no end token.*set tokenizer\.eos_token"):
        rows_of(ASKED, tokenizer=tokenizer)


def test_padding_is_on_the_right_not_attended_to_and_never_learnt():
    rows = rows_of(ASKED, Prompt(text="say", response="No ."))
    batch = padded(rows.rows, pad=END)
    assert batch["input_ids"].shape == (2, 12)
    assert batch["attention_mask"].sum(dim=1).tolist() == [12, 7]
    for index, row in enumerate(rows.rows):
        length = len(row["input_ids"])
        assert batch["input_ids"][index, :length].tolist() == row["input_ids"]
        assert batch["labels"][index, :length].tolist() == row["labels"]
        assert (batch["input_ids"][index, length:] == END).all()
        assert (batch["labels"][index, length:] == -100).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30), st.integers(8, 40))
def test_no_row_is_longer_than_the_limit_and_labels_are_its_own_tokens(words, limit):
    rows = rows_of(Prompt(text="say", response=" ".join(words)), max_length=limit)
    for row in rows.rows:
        assert len(row["input_ids"]) == len(row["labels"]) <= limit
        assert all(
            label in (-100, token)
            for token, label in zip(row["input_ids"], row["labels"], strict=True)
        )
    assert rows.num_cut == (len(words) + 5 > limit)


def test_the_fingerprint_tells_data_apart():
    assert rows_of(ASKED).fingerprint == rows_of(ASKED).fingerprint
    other = Prompt(text="paint the door", response="Sure , first sand")
    assert rows_of(ASKED).fingerprint != rows_of(other).fingerprint


def test_the_loss_of_a_batch_is_that_of_its_response_tokens(tiny_llama):
    rows = rows_of(ASKED, Prompt(text="say", response="No ."))
    batch = padded(rows.rows, pad=0)
    losses = []
    for row in rows.rows:
        tokens = torch.tensor([row["input_ids"]])
        logs = tiny_llama(tokens).logits[0, :-1].log_softmax(-1)
        targets = torch.tensor(row["labels"][1:])
        losses += [-logs[i, t] for i, t in enumerate(targets.tolist()) if t != -100]
    torch.testing.assert_close(tiny_llama(**batch).loss, torch.stack(losses).mean())
