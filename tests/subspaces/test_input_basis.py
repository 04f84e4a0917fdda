import dataclasses
import logging

import pytest
import torch

from conftest import build, examples, make_batches
from reference.warp import inputs_by_brute_force
from safetypin import input_basis
from safetypin.artifacts import ArtifactMismatchError, Basis, UserError
from safetypin.models import block_weights, input_sites
from safetypin.subspaces import (
    block_directions,
    blocks_of_layers,
    gram_bytes,
    identity_basis,
    random_basis,
)
from safetypin.subspaces._streamed import eigenvectors

FAMILIES = ("llama", "gpt2", "phi3", "gemma3", "gpt_neox", "qwen3")
DOWN = "model.layers.0.mlp.down_proj.weight"


def orthonormal(directions):
    size = directions.shape[0]
    return (directions.double().T @ directions.double() - torch.eye(size).double()).abs().max()


def test_eigenvectors_of_a_worked_example():
    directions, spectrum, rank = eigenvectors(torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
    assert directions.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert spectrum.tolist() == [5.0, 2.0]
    assert rank == 2


def test_a_singular_gram_matrix_has_a_rank_and_no_negative_eigenvalue():
    gram = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    directions, spectrum, rank = eigenvectors(gram)
    assert torch.allclose(directions[:, 0].abs(), torch.full((2,), 0.5**0.5))
    assert directions.max(dim=0).values.min() > 0
    assert rank == 1
    assert spectrum.min() >= 0


@pytest.mark.parametrize("family", FAMILIES)
def test_directions_diagonalise_the_gram_matrix_of_the_counted_inputs(family):
    model = build(family)
    batches = make_batches(examples(12), 4)
    basis = input_basis(model, batches)
    inputs = inputs_by_brute_force(model, batches, list(basis.sites))
    for name, rows in inputs.items():
        gram, directions = rows.T @ rows, basis.of(name)
        spectrum = basis.spectra[basis.sites[name]]
        assert orthonormal(directions) < 1e-5
        made = directions.double() @ spectrum.double().diag() @ directions.double().T
        assert (made - gram).abs().max() <= 1e-5 * gram.abs().max()
        assert (spectrum[:-1] >= spectrum[1:]).all()
        assert float(spectrum.sum()) == pytest.approx(float(rows.square().sum()), rel=1e-5)
        largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
        assert (largest > 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_share_a_site_only_where_they_read_the_same_rows(family):
    model, batches = build(family), make_batches(examples())
    weights = block_weights(model)
    sites = input_sites(weights)
    inputs = inputs_by_brute_force(model, batches, list(weights))
    for name, site in sites.items():
        for other, place in sites.items():
            if site == place:
                assert torch.equal(inputs[name], inputs[other])
    if family == "llama":
        assert len(set(sites.values())) == 4 * 2


def test_the_basis_does_not_depend_on_batch_size_padding_or_order():
    model = build("llama")
    batches = make_batches(examples(12), 4)
    reference = input_basis(model, batches)
    alone = make_batches(examples(12)[::-1], 1, side="left")
    for other in (input_basis(model, alone), input_basis(model, batches, max_bytes=1)):
        assert other.num_tokens == reference.num_tokens
        for site, spectrum in reference.spectra.items():
            floor = 1e-5 * float(spectrum[0])
            assert torch.allclose(other.spectra[site], spectrum, rtol=1e-5, atol=floor)


def test_equal_calls_give_equal_bits_and_the_model_is_unchanged():
    model, batches = build("llama"), make_batches(examples())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (input_basis(model, batches) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert all(torch.equal(first.directions[s], second.directions[s]) for s in first.directions)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_fewer_tokens_than_directions_are_told_and_ranked(caplog):
    model, batch = build("llama"), make_batches(examples(1))[0]
    with caplog.at_level(logging.WARNING):
        basis = input_basis(model, [batch])
    counted = int(batch.counted.sum())
    assert counted < 16
    assert set(basis.ranks.values()) == {counted}
    assert f"({counted} of 16)" in caplog.text
    assert "arbitrary basis of the rest" in caplog.text
    for directions in basis.directions.values():
        assert orthonormal(directions) < 1e-5


def test_layers_and_modules_are_chosen():
    model, batches = build("llama"), make_batches(examples())
    basis = input_basis(model, batches, targets=("ffn_down", "attn_q"), layers="last")
    assert list(basis.sites) == [
        "model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"
    ]  # fmt: skip
    with pytest.raises(ArtifactMismatchError, match="no directions for 1 weights, first"):
        basis.of(DOWN)


def test_no_counted_token_is_an_error():
    batch = make_batches(examples())[0]
    nothing = batch._replace(counted=torch.zeros_like(batch.counted))
    with pytest.raises(UserError, match="no token is counted"):
        input_basis(build("llama"), [nothing])


def test_inputs_that_are_no_numbers_name_the_layer_and_the_way_out():
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(torch.inf)
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.down_proj.*not finite.*bfloat16"):
        input_basis(model, make_batches(examples()))


def test_float16_overflow_is_an_error_and_bfloat16_goes_through():
    def loud(dtype):
        model = build("llama")
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.mul_(1e5)
            model.model.layers[0].mlp.gate_proj.weight.mul_(1e4)
        return model.to(dtype)

    with pytest.raises(UserError, match="load the model in bfloat16"):
        input_basis(loud(torch.float16), make_batches(examples()))
    basis = input_basis(loud(torch.bfloat16), make_batches(examples()))
    assert all(tensor.dtype == torch.float32 for tensor in basis.directions.values())


def test_the_experts_of_a_mixture_are_left_out_or_refused():
    model, batches = build("mixtral"), make_batches(examples())
    assert all("experts" not in name for name in input_basis(model, batches).sites)
    with pytest.raises(UserError, match="experts of a mixture, which have no one input"):
        input_basis(model, batches, targets=("expert_*",))


def test_layers_are_cut_into_blocks_that_fit():
    weights = block_weights(build("llama"))
    one = gram_bytes({n: w for n, w in weights.items() if w.layer == 0})
    assert gram_bytes(weights) == 2 * one == 2 * 4 * (3 * 16**2 + 24**2)
    assert len(blocks_of_layers(weights, 2 * one)) == 1
    assert len(blocks_of_layers(weights, 2 * one - 1)) == 2
    assert len(blocks_of_layers(weights, 1)) == 2  # never less than a layer


def test_a_block_of_layers_gives_the_directions_of_all_layers_together():
    model, batches = build("llama"), make_batches(examples())
    whole = input_basis(model, batches)
    for block in blocks_of_layers(block_weights(model), 1):
        part = block_directions(model, batches, block)
        for site, directions in part.directions.items():
            assert torch.equal(directions, whole.directions[site])


def test_a_random_basis_is_orthonormal_and_depends_on_seed_and_site_alone():
    model = build("llama")
    basis, other = random_basis(model, seed=1), random_basis(model, seed=2)
    part = random_basis(model, seed=1, layers="last")
    for site, directions in basis.directions.items():
        assert orthonormal(directions) < 1e-5
        assert not torch.allclose(directions, other.directions[site])
    for site, directions in part.directions.items():
        assert torch.equal(directions, basis.directions[site])
    assert basis.fingerprint != other.fingerprint


def test_the_identity_has_the_coordinates_of_the_weights():
    model = build("llama")
    basis = identity_basis(model)
    assert basis.space == "weights"
    assert basis.of(DOWN) is None
    weight = model.get_parameter(DOWN).detach()
    assert basis.rotated(DOWN, weight) is weight


def test_a_basis_with_a_missing_layer_says_which():
    basis = input_basis(build("llama"), make_batches(examples()))
    site = basis.sites[DOWN]
    rest = {key: value for key, value in basis.directions.items() if key != site}
    broken: Basis = dataclasses.replace(basis, directions=rest)
    with pytest.raises(ArtifactMismatchError, match=DOWN.replace(".", r"\.")):
        broken.check_has([])
