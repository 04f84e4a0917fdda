"""Examples to train on and the prompts beside them: held out, disjoint, with responses."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safetypin.artifacts import Prompt, PromptSet, UserError, normalise
from safetypin.stages._tune_config import make_tune_config
from safetypin.stages._tune_data import read_sets, short_sets, split


def examples(prompts, name="d"):
    rows = [Prompt(text=text, response=f"answer {index}") for index, text in enumerate(prompts)]
    return PromptSet(name=name, prompts=tuple(rows))


def texts(prompts):
    return [prompt.text for prompt in prompts]


@pytest.fixture
def source(tmp_path):
    """Write a prompt file and return its path."""

    def write(name, rows):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def config(source):
    """Return a config whose sources are small files, with changes."""
    kinds = ("attack", "harmless", "borderline", "safety", "utility")
    sources = {kind: source(kind, [{"prompt": f"{kind} {i}"} for i in range(4)]) for kind in kinds}
    sources["text"] = source("text", [{"prompt": "", "response": "Running text."}])
    rows = [{"prompt": f"task {i}", "response": "done"} for i in range(20)]
    sources["data"] = source("data", rows)

    def make(**changes):
        return make_tune_config("m", None, None, {"protect": "none", **sources, **changes})

    return make


@pytest.mark.parametrize(("fraction", "num_held"), [(0.1, 2), (0.5, 10), (0.01, 1), (0.999, 19)])
def test_a_share_of_the_examples_is_held_out_and_the_rest_keeps_its_order(fraction, num_held):
    data = examples([f"task {index}" for index in range(20)])
    train, held = split(data, fraction, 100, 0)
    assert (len(train), len(held)) == (20 - num_held, num_held)
    assert set(train).isdisjoint(held)
    assert texts(train) == [text for text in texts(data) if text in texts(train)]


def test_no_more_are_held_out_than_are_used():
    train, held = split(examples(map(str, range(100))), 0.5, 8, 0)
    assert (len(train), len(held)) == (92, 8)


def test_the_seed_alone_decides_what_is_held_out():
    data = examples([f"task {index}" for index in range(40)])
    assert split(data, 0.2, 100, 1) == split(data, 0.2, 100, 1)
    assert split(data, 0.2, 100, 1) != split(data, 0.2, 100, 2)


@given(
    prompts=st.lists(st.sampled_from(["a", "A!", "b", "c", "d d", "D  d"]), min_size=2),
    fraction=st.floats(0.01, 0.99),
    limit=st.integers(1, 10),
    seed=st.integers(0, 3),
)
def test_no_prompt_is_on_both_sides_however_often_it_comes(prompts, fraction, limit, seed):
    data = examples(prompts)
    if len({normalise(text) for text in prompts}) == 1:
        with pytest.raises(UserError, match="so none can be held out"):
            split(data, fraction, limit, seed)
        return
    train, held = split(data, fraction, limit, seed)
    assert train.shared_with(held) == []
    assert len(train) >= 1
    assert 1 <= len(held) <= limit


def test_a_prompt_with_many_answers_stays_in_the_training():
    data = examples(["often"] * 30 + [f"once {index}" for index in range(10)])
    train, held = split(data, 0.1, 100, 0)
    assert len(held) == 4
    assert texts(train).count("often") == 30


def test_examples_of_one_prompt_name_the_two_ways_out():
    with pytest.raises(UserError) as raised:
        split(examples(["same", "Same!"]), 0.5, 9, 0)
    assert "all 2 examples of 'd' have one prompt" in str(raised.value)
    assert "--eval-data" in str(raised.value)
    assert "--eval-fraction 0" in str(raised.value)


def test_running_text_is_told_apart_by_itself():
    rows = [Prompt(text="", response=f"text {index}") for index in range(10)]
    train, held = split(PromptSet(name="t", prompts=tuple(rows)), 0.2, 9, 0)
    assert (len(train), len(held)) == (8, 2)


def test_every_set_is_read_and_calibration_only_where_a_set_of_weights_is_made(config):
    sets = read_sets(config())
    assert {name: len(found) for name, found in sets.items()} == {
        "data": 18, "task": 2, "attack": 4, "harmless": 4, "borderline": 4, "text": 1,
    }  # fmt: skip
    assert {"safety", "utility"} <= read_sets(config(protect="freeze")).keys()
    assert "safety" not in read_sets(config(protect="freeze", mask="somewhere"))


def test_a_fraction_of_zero_holds_nothing_out(config):
    sets = read_sets(config(eval_fraction=0.0))
    assert len(sets["data"]) == 20
    assert "task" not in sets


def test_other_examples_can_be_the_held_out_ones(config, source):
    rows = [{"prompt": f"other {i}", "response": "done"} for i in range(6)]
    sets = read_sets(config(eval_data=source("other", rows), num_task=5))
    assert (len(sets["data"]), len(sets["task"])) == (20, 5)


def test_fewer_examples_can_be_taken(config):
    sets = read_sets(config(num_data=10))
    assert (len(sets["data"]), len(sets["task"])) == (9, 1)
    with pytest.raises(UserError, match=r"21 prompts asked of 'data.jsonl', which has 20"):
        read_sets(config(num_data=21))


def test_columns_can_be_named(config, source):
    rows = [{"question": f"q {i}", "reply": "done"} for i in range(4)]
    path = source("named", rows)
    kinds = ("attack", "harmless", "borderline")
    others = {kind: source(f"q-{kind}", [{"question": kind}]) for kind in kinds}
    columns = {"prompt_column": "question", "response_column": "reply"}
    sets = read_sets(config(data=path, **others, **columns))
    assert {prompt.response for prompt in sets["data"]} == {"done"}
    with pytest.raises(UserError, match=r"no column 'replies'.*'question', 'reply'.*--response-"):
        read_sets(config(data=path, **others, **columns | {"response_column": "replies"}))


def test_examples_without_a_response_are_counted_and_the_first_is_named(config, source):
    rows = [{"prompt": "a", "response": "x"}, {"prompt": "b"}, {"prompt": "c", "response": ""}]
    with pytest.raises(UserError) as raised:
        read_sets(config(data=source("half", rows)))
    assert "2 of the 3 examples in" in str(raised.value)
    assert "have no response (first in row 1)" in str(raised.value)
    assert "--response-column" in str(raised.value)


@pytest.mark.parametrize(
    ("mine", "theirs", "words"),
    [
        ("data", "attack", "of --data to train on and of --attack to evaluate on share 1"),
        ("data", "harmless", "of --data to train on and of --harmless to evaluate on"),
        ("data", "text", "of --data to train on and of --text to evaluate on"),
        ("data", "eval_data", "of --data to train on and of --eval-data to evaluate on"),
        ("data", "safety", "of --data to train on and of --safety to score on"),
        ("safety", "attack", "of --attack to evaluate on and of --safety to score on"),
        ("utility", "eval_data", "of --eval-data to evaluate on and of --utility to score on"),
    ],
)
def test_no_prompt_may_be_in_two_kinds_of_sets(config, source, mine, theirs, words):
    rows = [{"prompt": f"row {i}", "response": "done"} for i in range(4)]
    shared = [{"prompt": "ROW 2!", "response": "done"}]
    more = [{"prompt": "another", "response": "done"}]
    files = {mine: source("mine", rows), theirs: source("theirs", shared + more)}
    both = {"protect": "freeze", "eval_fraction": 0.0, **files}
    with pytest.raises(UserError) as raised:
        read_sets(config(**both))
    assert words in str(raised.value)
    assert "--allow-shared-prompts" in str(raised.value)
    assert read_sets(config(**both, allow_shared_prompts=True))


def test_a_set_that_is_smaller_than_asked_for_is_said(config):
    made = config(num_attack=4, num_harmless=3, num_borderline=9, num_text=1)
    [note] = short_sets(made, read_sets(made))
    assert "borderline.jsonl has 4 prompts, 9 were asked for" in note
