import dataclasses

import pytest
import torch

from conftest import build, examples, make_batches
from reference.warp import importance_by_brute_force
from safetypin import input_basis, snip, top_fraction
from safetypin.artifacts import ArtifactMismatchError, UserError, WeightScores
from safetypin.scores import coefficient_gradients, random_coefficients
from safetypin.select import bottom_fraction
from safetypin.subspaces import identity_basis, random_basis

FAMILIES = ("llama", "gpt2", "phi3", "gemma3", "gpt_neox", "qwen3")


@pytest.mark.parametrize("family", FAMILIES)
def test_importance_is_the_mean_absolute_gradient_of_each_example_by_the_coefficient(family):
    model, batches = build(family), make_batches(examples(6), 3)
    basis = input_basis(model, batches)
    found = coefficient_gradients(model, batches, basis)
    for name, expected in importance_by_brute_force(model, batches, basis).items():
        floor = 1e-5 * float(expected.max())
        assert torch.allclose(found.tensors[name].double(), expected, rtol=1e-4, atol=floor), name
    assert found.space == basis.fingerprint
    assert found.num_examples == 6


def test_importance_does_not_depend_on_batch_size_padding_or_order():
    model, rows = build("llama"), examples(8)
    basis = random_basis(model)
    reference = coefficient_gradients(model, make_batches(rows, 8), basis)
    for batches in (make_batches(rows, 1), make_batches(rows[::-1], 3, side="left")):
        other = coefficient_gradients(model, batches, basis)
        for name, scores in reference.tensors.items():
            floor = 1e-6 * float(scores.max())
            assert torch.allclose(other.tensors[name], scores, rtol=1e-5, atol=floor)


def test_in_the_weights_own_coordinates_importance_times_the_weight_is_snip():
    model, batches = build("llama"), make_batches(examples())
    found = coefficient_gradients(model, batches, identity_basis(model))
    assert found.space == "weights"
    for name, scores in snip(model, batches).tensors.items():
        weight = model.get_parameter(name).detach().abs()
        assert torch.allclose(found.tensors[name] * weight, scores, rtol=1e-5, atol=1e-9)


def test_prompt_tokens_have_no_part_in_the_loss():
    model, (batch,) = build("llama"), make_batches(examples(1))
    basis = random_basis(model)
    other = batch._replace(counted=torch.ones_like(batch.counted))
    first, second = (coefficient_gradients(model, [one], basis) for one in (batch, other))
    assert all(torch.equal(first.tensors[n], second.tensors[n]) for n in first.tensors)


def test_the_model_is_unchanged_and_has_no_gradient():
    model, batches = build("llama"), make_batches(examples())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    coefficient_gradients(model, batches, random_basis(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_basis_of_another_model_is_refused():
    model, other = build("llama"), build("llama")
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(2)
    with pytest.raises(ArtifactMismatchError, match=r"the basis is of .*, the model is"):
        coefficient_gradients(model, make_batches(examples()), random_basis(other))


def test_a_missing_layer_is_an_error_before_anything_is_scored():
    model = build("llama")
    basis = random_basis(model)
    site = next(iter(basis.directions))
    rest = {key: value for key, value in basis.directions.items() if key != site}
    with pytest.raises(ArtifactMismatchError, match="no directions for 3 weights"):
        coefficient_gradients(
            model, make_batches(examples()), dataclasses.replace(basis, directions=rest)
        )


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_keep_ratio_outside_0_and_1_is_an_error(ratio):
    model = build("llama")
    scores = random_coefficients(model, random_basis(model))
    with pytest.raises(UserError, match=r"in \[0, 1\]"):
        top_fraction(scores, ratio)


@pytest.mark.parametrize("group", ["matrix", "model"])
@pytest.mark.parametrize("values", ["all equal", "rounded to bfloat16"])
def test_exactly_the_share_is_kept_also_with_ties(group, values):
    tensors = {name: torch.ones(30, 21) for name in ("a", "b")}
    if values != "all equal":
        drawn = torch.rand(30, 21, generator=torch.Generator().manual_seed(0)) + 0.5
        tensors = {name: drawn.bfloat16().float() for name in ("a", "b")}
    scores = WeightScores(tensors=tensors, method="gradient", model_id="m", space="s")
    for pick in (top_fraction, bottom_fraction):
        for ratio in (0.01, 0.1, 0.29, 0.5):
            mask = pick(scores, ratio, group=group)
            assert mask.num_selected == pytest.approx(ratio * 1260, abs=1.0)
            if group == "matrix":
                assert all(int(m.sum()) == round(ratio * 630) for m in mask.tensors.values())
            assert mask.space == "s"


def test_the_bottom_is_the_lowest_scores_exactly():
    values = torch.rand(40, 5, generator=torch.Generator().manual_seed(1)) * 1e-20
    values[0, 0] = 0.0
    scores = WeightScores(tensors={"a": values}, method="gradient", model_id="m")
    mask = bottom_fraction(scores, 0.1).tensors["a"]
    assert mask[0, 0]
    assert values[mask].max() < values[~mask].min()


def test_random_coefficients_are_seeded():
    model = build("llama")
    basis = random_basis(model)
    first, again, other = (random_coefficients(model, basis, seed=seed) for seed in (0, 0, 1))
    assert first.space == basis.space
    for name in first.tensors:
        assert torch.equal(first.tensors[name], again.tensors[name])
        assert not torch.equal(first.tensors[name], other.tensors[name])
