import dataclasses

import pytest
import torch

from conftest import SCORED_FAMILIES, build, examples, make_batches
from safetypin.artifacts import ArtifactMismatchError, WeightScores
from safetypin.scores import magnitude, merge, random_scores, snip, wanda

# halves of unequal size, so that a plain mean of the two would be wrong
ROWS = examples(7, seed=3)
FIRST, SECOND = ROWS[:2], ROWS[2:]


@pytest.mark.parametrize("family", SCORED_FAMILIES)
@pytest.mark.parametrize("scorer", [snip, wanda], ids=["snip", "wanda"])
def test_the_scores_of_two_halves_make_the_scores_of_all(scorer, family):
    model = build(family)
    whole = scorer(model, make_batches(ROWS))
    parts = [scorer(model, make_batches(rows)) for rows in (FIRST, SECOND)]
    found = merge(*parts)
    assert found.num_examples == whole.num_examples == 7
    assert found.num_tokens == whole.num_tokens
    assert (found.method, found.coverage) == (whole.method, whole.coverage)
    assert sorted(found.tensors) == sorted(whole.tensors)
    for name, scores in whole.tensors.items():
        torch.testing.assert_close(found.tensors[name], scores, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("scorer", [snip, wanda], ids=["snip", "wanda"])
def test_the_order_of_the_halves_does_not_matter(scorer, tiny_llama):
    parts = [scorer(tiny_llama, make_batches(rows)) for rows in (FIRST, SECOND)]
    one, other = merge(*parts), merge(*reversed(parts))
    for name in one.tensors:
        torch.testing.assert_close(one.tensors[name], other.tensors[name], rtol=1e-5, atol=1e-12)


def test_scores_that_need_no_prompts_stay_exactly_as_they_are(tiny_llama):
    for scores in (magnitude(tiny_llama), random_scores(tiny_llama, seed=1)):
        found = merge(scores, scores)
        for name, tensor in scores.tensors.items():
            assert torch.equal(found.tensors[name], tensor)


def scores_of(*values, method="snip", model_id="here/model#1", name="w", **about):
    tensors = {name: torch.tensor([list(values)])}
    return WeightScores(tensors=tensors, method=method, model_id=model_id, **about)


def test_a_worked_example_of_each_mean():
    halves = [
        scores_of(1.0, 4.0, num_examples=1, num_tokens=30, prompts_id="a"),
        scores_of(5.0, 0.0, num_examples=3, num_tokens=10, prompts_id="b"),
    ]
    found = merge(*halves)  # by examples
    assert found.tensors["w"].tolist() == [[4.0, 1.0]]
    assert (found.num_examples, found.num_tokens, found.prompts_id) == (4, 40, "a+b")
    squares = [dataclasses.replace(half, method="wanda") for half in halves]
    expected = torch.tensor([[(0.75 * 1 + 0.25 * 25) ** 0.5, (0.75 * 16) ** 0.5]])  # by tokens
    torch.testing.assert_close(merge(*squares).tensors["w"], expected)


def test_merging_changes_neither_half():
    first, second = scores_of(1.0, num_examples=1), scores_of(2.0, num_examples=1)
    assert merge(first, second).tensors["w"].item() == 1.5
    assert (first.tensors["w"].item(), second.tensors["w"].item()) == (1.0, 2.0)


def test_merged_scores_are_a_mapping():
    found = merge(scores_of(1.0), scores_of(2.0)).tensors
    assert (list(found), len(found)) == (["w"], 1)
    with pytest.raises(KeyError):
        found["v"]


def test_halves_scored_on_one_model_under_two_names_merge():
    found = merge(scores_of(1.0), scores_of(1.0, model_id="/elsewhere/copy#1"))
    assert found.tensors["w"].item() == 1.0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            scores_of(1.0, method="wanda"),
            "the scores differ in method: snip and wanda; score both halves in the same way",
        ),
        (
            scores_of(1.0, model_id="here/model#2"),
            "the scores differ in model_id: here/model#1 and here/model#2; "
            "score both halves in the same way",
        ),
        (
            scores_of(1.0, space="abc"),
            "the scores differ in space: weights and abc; score both halves in the same way",
        ),
        (scores_of(1.0, name="v"), "the scores are of other weights; use the same --targets"),
    ],
)
def test_scores_of_different_things_do_not_merge(other, message):
    with pytest.raises(ArtifactMismatchError) as error:
        merge(scores_of(1.0), other)
    assert str(error.value) == message
