"""Every attack asks what it says, samples by itself, and goes on where it was killed."""

import pytest
import torch
from transformers import LlamaForCausalLM

from conftest import build
from safetypin.artifacts import Prompt, PromptSet, UserError
from safetypin.evaluate import (
    ATTACKS,
    SAFETY_PROMPT,
    Attack,
    attack,
    attack_tokens,
    generate,
    make_attacks,
)
from safetypin.evaluate._sampling import Draws, draw_seed
from toys import word_level

TEXTS = ["paint the old red door", "say", "how do I wait", "No", "the river runs then"]
WITH_SYSTEM = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} {% endfor %}"
    "<bot> "
)


@pytest.fixture
def tokenizer():
    return word_level(bos=True)


@pytest.fixture
def model():
    return build("llama")


def drawn(**changes):
    return ATTACKS["decoding"](**{"num_samples": 3, "seed": 4} | changes)


def test_the_names_of_the_attacks_are_those_of_their_settings():
    settings = {"suffix": {"suffixes": ("! !",)}}
    made = {name: make(**settings.get(name, {})) for name, make in ATTACKS.items()}
    assert list(made) == ["vanilla", "system", "suffix", "decoding", "prefill", "no-system"]
    assert {name: how.name for name, how in made.items()} == {name: name for name in ATTACKS}


# --- what is asked


def test_the_bare_attack_is_the_ordinary_answer(model, tokenizer):
    found = attack(model, tokenizer, TEXTS, ATTACKS["vanilla"](), max_new_tokens=5)
    assert [row[0] for row in found] == generate(model, tokenizer, TEXTS, max_new_tokens=5)
    assert {len(row) for row in found} == {1}


def test_a_suffix_follows_the_request_but_is_no_part_of_what_is_judged(model, tokenizer):
    suffixes = ("old river", "wait")
    found = attack(model, tokenizer, TEXTS, ATTACKS["suffix"](suffixes=suffixes), max_new_tokens=5)
    for place, suffix in enumerate(suffixes):
        texts = [f"{text} {suffix}" for text in TEXTS]
        expected = generate(model, tokenizer, texts, max_new_tokens=5)
        assert [row[place].text for row in found] == [answer.text for answer in expected]
    assert [[answer.prompt for answer in row] for row in found] == [[text] * 2 for text in TEXTS]


def test_a_prefilled_answer_goes_on_from_its_beginning_which_is_not_judged(model, tokenizer):
    how = ATTACKS["prefill"](prefill="Sure , first")
    (found,) = attack(model, tokenizer, ["say"], how, max_new_tokens=4)
    ids = list(
        tokenizer("<s> <user> say <bot> Sure , first", add_special_tokens=False)["input_ids"]
    )
    new = []
    for _ in range(4):
        with torch.no_grad():
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    assert attack_tokens(model, tokenizer, [Prompt(text="say")], how, max_new_tokens=4) == [ids]
    assert 2 not in new
    assert found[0].text == tokenizer.decode(new, skip_special_tokens=True)
    assert found[0].num_tokens == 4


def test_the_response_of_a_prompt_is_never_shown_to_the_model(model, tokenizer):
    asked = [Prompt(text="say", response="old red door")]
    with_response, bare = (
        attack(model, tokenizer, prompts, ATTACKS["vanilla"](), max_new_tokens=4)
        for prompts in (asked, ["say"])
    )
    assert with_response == bare


def test_an_attack_with_a_system_prompt_brings_its_own(model):
    tokenizer = word_level(bos=True, template=WITH_SYSTEM)

    def first(how, system):
        asked = [Prompt(text="say")]
        (row,) = attack_tokens(model, tokenizer, asked, how, max_new_tokens=1, system=system)
        return tokenizer.decode(row)

    own = ATTACKS["system"](system="wait then")
    assert first(own, "paint the door") == "<unk> wait then <user> say <bot>"
    assert first(ATTACKS["vanilla"](), "paint the") == "<unk> paint the <user> say <bot>"
    assert first(ATTACKS["vanilla"](), None) == "<user> say <bot>"
    assert ATTACKS["system"]().system == SAFETY_PROMPT


def test_a_template_without_a_system_prompt_is_named(model, tokenizer):
    with pytest.raises(UserError, match="the chat template refuses the prompt"):
        attack(model, tokenizer, TEXTS, ATTACKS["system"]())


def test_without_a_template_the_request_is_plain(model, tokenizer):
    asked = [Prompt(text="say")]
    how = ATTACKS["prefill"](prefill="Sure")
    (row,) = attack_tokens(model, tokenizer, asked, how, max_new_tokens=1, plain=True)
    assert tokenizer.decode(row) == "<s> say Sure"


# --- sampling


def texts_of(found):
    return [[answer.text for answer in row] for row in found]


def test_samples_do_not_depend_on_batches_padding_or_order(model, tokenizer):
    expected = texts_of(attack(model, tokenizer, TEXTS, drawn(), max_new_tokens=6, batch_size=1))
    for batch_size in (2, 7, 32):
        found = attack(model, tokenizer, TEXTS, drawn(), max_new_tokens=6, batch_size=batch_size)
        assert texts_of(found) == expected
    backwards = attack(model, tokenizer, TEXTS[::-1], drawn(), max_new_tokens=6)
    assert texts_of(backwards)[::-1] == expected
    # with more samples the first ones stay
    more = attack(model, tokenizer, TEXTS, drawn(num_samples=5), max_new_tokens=6)
    assert [row[:3] for row in texts_of(more)] == expected
    assert len({text for row in expected for text in row}) > 10


def test_samples_depend_on_the_seed(model, tokenizer):
    found = [
        texts_of(attack(model, tokenizer, TEXTS, drawn(seed=seed), max_new_tokens=6))
        for seed in (4, 5)
    ]
    assert found[0] != found[1]


def test_each_request_and_each_sample_has_a_seed_of_its_own():
    seeds = {draw_seed(s, r, i) for s in (0, 1) for r in ("a", "b") for i in range(5)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_tokens_are_drawn_with_the_probabilities_of_the_softmax():
    scores, temperature, count = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf]), 1.7, 20_000
    draws = Draws(temperature=temperature, seeds=tuple(draw_seed(0, "r", i) for i in range(count)))
    (processor,) = draws.processors()
    chosen = processor(torch.zeros(count, 1).long(), scores.expand(count, -1)).argmax(dim=1)
    shares = torch.bincount(chosen, minlength=5) / count
    expected = torch.softmax(scores / temperature, dim=0)
    # five standard errors of a share of 20,000
    assert (shares - expected).abs().max() < 5 * 0.5 / count**0.5
    assert shares[4] == 0


def test_draws_follow_one_another_and_begin_anew():
    draws = Draws(temperature=1.0, seeds=(3, 9))
    scores = torch.zeros(2, 50)

    def run(some):
        (processor,) = some.processors()
        return torch.stack([processor(torch.zeros(2, 1).long(), scores) for _ in range(3)])

    first = run(draws)
    assert torch.equal(first, run(draws))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0, 0], first[0, 1])
    assert torch.equal(run(draws.of([1, 0])), first.flip(1))


def test_a_cold_sample_is_the_greedy_answer(model, tokenizer):
    cold = drawn(num_samples=1, temperature=1e-4)
    found = attack(model, tokenizer, TEXTS, cold, max_new_tokens=5)
    assert [row[0] for row in found] == generate(model, tokenizer, TEXTS, max_new_tokens=5)


def test_samples_are_the_same_in_the_halves_of_a_batch_that_did_not_fit(tokenizer, model):
    expected = attack(model, tokenizer, TEXTS, drawn(), max_new_tokens=4)
    widths = []

    class Small(LlamaForCausalLM):
        def generate(self, input_ids, **options):
            widths.append(len(input_ids))
            if len(input_ids) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().generate(input_ids=input_ids, **options)

    small = Small(model.config).eval()
    small.load_state_dict(model.state_dict())
    assert attack(small, tokenizer, TEXTS, drawn(), max_new_tokens=4) == expected
    assert widths[:3] == [15, 7, 3]


# --- resuming


@pytest.mark.parametrize("how", [drawn(), ATTACKS["suffix"](suffixes=("wait", "old"))])
def test_an_interrupted_attack_goes_on_with_the_same_answers(model, tokenizer, how):
    kept, batches = {}, []

    def keep(indices, responses):
        kept.update(zip(indices, responses, strict=True))
        batches.append(indices)

    size = {"max_new_tokens": 4, "batch_size": 3}
    whole = attack(model, tokenizer, TEXTS, how, on_batch=keep, **size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(kept)))
    assert [kept[i] for i in range(len(kept))] == [answer for row in whole for answer in row]
    done = {index: kept[index] for batch in batches[:2] for index in batch}
    again, batches[:] = list(batches), []
    assert attack(model, tokenizer, TEXTS, how, done=done, on_batch=keep, **size) == whole
    assert batches == again[2:]


# --- bad settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be 0 or more, got -1.0"),
        ({"temperature": float("inf")}, "temperature must be 0 or more, got inf"),
        ({"num_samples": 5}, "5 samples at temperature 0 are one answer 5 times"),
        ({"suffixes": ("a", " ")}, "attack 'x' has an empty suffix"),
        ({"suffixes": ("a", "a")}, "attack 'x' has a suffix twice"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings, words):
    with pytest.raises(UserError, match=words):
        Attack(name="x", **settings)


@pytest.mark.parametrize(
    ("names", "settings", "words"),
    [
        (["sufix"], {}, "no attack 'sufix'; nearest: suffix; all: vanilla, system, suffix"),
        (["qqq"], {}, "no attack 'qqq'; all: vanilla"),
        (["vanilla", "vanilla"], {}, "attack 'vanilla' is named twice"),
        (["suffix"], {}, "attack 'suffix' needs suffixes; give a file"),
        (["prefill"], {"prefill": " "}, "attack 'prefill' needs a text such as 'Sure, here is'"),
        (["vanilla"], {"num_samples": 3}, "num_samples is given, but no chosen attack takes it; "
                                          "add decoding"),
    ],
)  # fmt: skip
def test_attacks_that_cannot_be_made_are_refused(names, settings, words):
    suffixes = {"suffixes": ()} if names == ["suffix"] else {}
    with pytest.raises(UserError, match=words):
        make_attacks(names, **suffixes, **settings)


def test_each_setting_goes_to_the_attacks_that_take_it():
    made = make_attacks(
        ["vanilla", "decoding", "prefill"],
        num_samples=2,
        temperature=None,
        prefill="Sure",
        seed=7,
    )
    assert made == (
        Attack(name="vanilla"),
        Attack(name="decoding", num_samples=2, temperature=1.0, seed=7),
        Attack(name="prefill", prefill="Sure"),
    )


def test_bad_sizes_and_a_lone_text_are_refused(model, tokenizer):
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        attack(model, tokenizer, TEXTS, ATTACKS["vanilla"](), batch_size=0)
    with pytest.raises(UserError, match="prompts must be a list, got one text"):
        attack(model, tokenizer, "say", ATTACKS["vanilla"]())


def test_a_request_that_leaves_no_room_is_named(model, tokenizer):
    prompts = PromptSet(name="p", prompts=(Prompt(text="say"),))
    how = ATTACKS["suffix"](suffixes=("old " * 45,))
    with pytest.raises(UserError, match="leaves no room for 5 new ones"):
        attack(model, tokenizer, prompts, how, max_new_tokens=5)
