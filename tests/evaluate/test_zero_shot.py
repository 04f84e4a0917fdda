"""Zero-shot accuracy is lm-eval's, of the same documents for every model."""

import importlib.util
import math

import pytest
import torch

from conftest import build
from safetypin.artifacts import UserError
from safetypin.evaluate import PAPER_TASKS, TaskAccuracy, check_tasks, zero_shot
from safetypin.prompts import CHOICE_SETS, ChoiceSet, Question
from toys import WORDS, word_level


@pytest.fixture
def tokenizer():
    return word_level()


def questions():
    """Forty questions whose answers are of different length."""
    return [
        Question(
            text=f"{WORDS[place % 9]} {WORDS[place % 7]}",
            choices=(WORDS[place % 11], f"{WORDS[place % 5]} {WORDS[place % 3]}", WORDS[-1]),
            answer=place % 3,
        )
        for place in range(40)
    ]


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(CHOICE_SETS, "toy", ChoiceSet(about="toy", read=questions))
    per_byte = ChoiceSet(about="toy", read=questions, normalised=True)
    monkeypatch.setitem(CHOICE_SETS, "toy-per-byte", per_byte)


def likelihood(model, tokenizer, question, choice):
    """Return the log-likelihood of an answer by one forward pass in float64."""
    head = tokenizer(question.text, add_special_tokens=False)["input_ids"]
    tail = tokenizer(choice, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model.double()(torch.tensor([head + tail])).logits[0]
    rows = logits.log_softmax(-1)[len(head) - 1 : -1]
    return sum(float(row[token]) for row, token in zip(rows, tail, strict=True))


@pytest.mark.parametrize("task", ["toy", "toy-per-byte"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_the_answer_is_the_likeliest_one_by_hand(family, task, tokenizer):
    (found,) = zero_shot(build(family), tokenizer, task, batch_size=7)
    reference, expected = build(family), []
    for question in questions():
        scores = [
            likelihood(reference, tokenizer, question, choice)
            / (len(choice) if task == "toy-per-byte" else 1)
            for choice in question.choices
        ]
        expected.append(int(max(range(3), key=scores.__getitem__) == question.answer))
    assert list(found.correct) == expected
    assert 0 < sum(expected) < 40
    assert found.documents == tuple(range(40))
    assert found.metric == ("acc_norm" if task == "toy-per-byte" else "acc")


def test_a_limit_is_a_seeded_sample_that_is_the_same_for_every_model(tokenizer):
    found = [
        zero_shot(build(family), tokenizer, "toy", limit=9, seed=seed)[0]
        for family, seed in (("llama", 3), ("qwen3", 3), ("llama", 4))
    ]
    assert found[0].documents == found[1].documents != found[2].documents
    assert len(set(found[0].documents)) == 9
    assert found[0].documents != tuple(range(9))
    (whole,) = zero_shot(build("llama"), tokenizer, "toy", limit=1000)
    assert found[0].correct == tuple(whole.correct[place] for place in found[0].documents)


def test_the_model_is_left_as_it_was_and_so_are_the_random_numbers(tokenizer, capfd):
    model = build("llama").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    zero_shot(model, tokenizer, "toy", limit=4)
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_the_standard_error_is_that_of_lm_eval():
    found = TaskAccuracy(task="t", metric="acc", documents=(0, 1, 2, 3), correct=(1, 0, 0, 1))
    assert found.accuracy.value == 0.5
    # the sample standard deviation of 1, 0, 0, 1 over the square root of 4
    assert found.standard_error == pytest.approx(math.sqrt(1 / 3) / 2)
    one = TaskAccuracy(task="t", metric="acc", documents=(0,), correct=(1,))
    assert one.standard_error is None


@pytest.mark.parametrize("name", ["bbq-300", "statements-320"])
def test_a_packaged_set_is_what_its_name_says(name):
    found = CHOICE_SETS[name].read()
    assert len(found) == int(name.rpartition("-")[2])
    for question in found:
        assert question.choices[question.answer]
        assert len(set(question.choices)) == len(question.choices)
        assert "\nA)" not in question.text


def test_the_right_answers_of_the_stories_stand_at_every_place():
    places = [question.answer for question in CHOICE_SETS["bbq-300"].read()]
    assert all(80 < places.count(place) < 120 for place in range(3))


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([], "no task named; choose among boolq, rte,"),
        (["toy", "toy"], "task 'toy' is named twice"),
    ],
)
def test_bad_lists_of_tasks_are_refused(tasks, words):
    with pytest.raises(UserError, match=words):
        check_tasks(tasks)


@pytest.mark.slow  # looks through the 14,000 tasks of lm-eval
def test_an_unknown_task_names_the_nearest():
    check_tasks(PAPER_TASKS)
    with pytest.raises(UserError, match=r"no zero-shot task 'hellaswga'; nearest: hellaswag"):
        check_tasks(["hellaswga"])
    with pytest.raises(UserError, match=r"without a hub: bbq-300, statements-320"):
        check_tasks(["qqq-zzz"])


def test_without_lm_eval_the_extra_is_named(monkeypatch, tokenizer):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find(name)
    )
    with pytest.raises(UserError, match=r"pip install 'safetypin\[zero-shot\]'"):
        zero_shot(build("llama"), tokenizer, "toy")


def test_documents_that_cannot_be_had_are_named(monkeypatch, tokenizer):
    def missing():
        raise ConnectionError("offline is enabled")

    monkeypatch.setitem(CHOICE_SETS, "toy", ChoiceSet(about="toy", read=missing))
    with pytest.raises(UserError, match=r"could not be loaded \(offline is enabled\); check the"):
        zero_shot(build("llama"), tokenizer, "toy")


def test_a_limit_below_one_is_refused(tokenizer):
    with pytest.raises(UserError, match="limit must be at least 1, got 0"):
        zero_shot(build("llama"), tokenizer, "toy", limit=0)
