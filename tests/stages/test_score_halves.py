"""Scoring both halves of the prompts holds the scores of one of them."""

import weakref

import pytest
import torch

from safetypin.artifacts import Prompt, PromptSet, UserError, WeightScores, read_mask, read_scores
from safetypin.select import top_fraction
from safetypin.stages import HALF_FILES, SCORES_FILE, Reporter, Scoring, _score, score_halves
from toys import save_llama, word_level

PROMPTS = PromptSet(name="p", prompts=tuple(Prompt(text=f"t{n}", response="r") for n in range(5)))


@pytest.fixture
def model(tmp_path):
    return save_llama(tmp_path / "model")


@pytest.fixture
def tokenizer():
    return word_level(bos=True)


def scores_of(half):
    generator = torch.Generator().manual_seed(len(half))
    tensors = {"z": torch.rand(4, 6, generator=generator), "a": torch.rand(3, generator=generator)}
    return WeightScores(
        tensors=tensors, method="snip", model_id="m#1", num_examples=len(half), num_tokens=9
    )


def halved(model, tokenizer, folder):
    folder.mkdir()
    return score_halves(
        folder,
        model,
        tokenizer,
        PROMPTS,
        Scoring(),
        fraction=0.5,
        reporter=Reporter(quiet=True),
    )


def test_the_scores_of_the_first_half_are_let_go_before_the_second_is_scored(
    model, tokenizer, monkeypatch, tmp_path
):
    made = []

    def score(model, tokenizer, half, how, *, reporter, reference=None):
        assert not any(reference() is not None for reference in made)
        scores = scores_of(half)
        made.append(weakref.ref(scores))
        return scores

    monkeypatch.setattr(_score, "score", score)
    output = halved(model, tokenizer, tmp_path / "out")
    assert len(made) == 2
    assert output.result["num_examples"] == 5
    first, second = (scores_of(half) for half in PROMPTS.halves())
    found = read_scores(tmp_path / "out" / SCORES_FILE)
    assert list(found.tensors) == ["z", "a"]
    for name, values in found.tensors.items():
        expected = 0.6 * first.tensors[name] + 0.4 * second.tensors[name]
        torch.testing.assert_close(values, expected)
    for half, file in zip((first, second), HALF_FILES, strict=True):
        mask = read_mask(tmp_path / "out" / file)
        assert mask.fingerprint == top_fraction(half, 0.5).fingerprint
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [SCORES_FILE, *HALF_FILES]
    )


def no_memory_for(room, sizes):
    def once(model, tokenizer, prompts, how, batch_size, reporter, reference):
        sizes.append(batch_size)
        if batch_size > room:
            torch.empty(1 << 60, dtype=torch.uint8)  # torch's own words: a RuntimeError
        return scores_of(prompts)

    return once


def test_a_cpu_without_memory_halves_the_batch_until_it_fits(model, tokenizer, monkeypatch):
    sizes = []
    monkeypatch.setattr(_score, "_score_once", no_memory_for(2, sizes))
    how, reporter = Scoring(batch_size=8), Reporter(quiet=True)
    assert _score.score(model, tokenizer, PROMPTS, how, reporter=reporter).num_examples == 5
    assert sizes == [8, 4, 2]


def test_memory_too_small_for_one_prompt_is_said(model, tokenizer, monkeypatch):
    monkeypatch.setattr(_score, "_score_once", no_memory_for(0, []))
    with pytest.raises(UserError) as error:
        _score.score(
            model, tokenizer, PROMPTS, Scoring(batch_size=2), reporter=Reporter(quiet=True)
        )
    assert str(error.value) == (
        "the memory of cpu does not suffice to score one prompt at a time; use --dtype bfloat16, "
        "shorter prompts or --targets"
    )


def test_another_error_is_not_taken_for_one_of_memory(model, tokenizer, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(_score, "_score_once", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        _score.score(model, tokenizer, PROMPTS, Scoring(), reporter=Reporter(quiet=True))
