"""SN-Tune: the weights of the chosen neurons are trained, and no other, whatever the optimizer."""

import dataclasses

import pytest
import torch
from finetuning import DATA, SMALL, bits, mask_of, state_of, tokenizer

from conftest import build
from safetypin.artifacts import NeuronScores, UserError, WeightMask
from safetypin.intervene import OnlyTrain, finetune
from safetypin.models import key_coordinate, model_id, neuron_weights, unit_sites
from safetypin.select import top_neurons


def neurons_of(model, site="neuron", fraction=0.1):
    generator = torch.Generator().manual_seed(2)
    tensors = {
        name: torch.rand(place.shape, generator=generator)
        for name, place in unit_sites(model, site).items()
    }
    scores = NeuronScores(tensors=tensors, site=site, method="x", model_id=model_id(model))
    return top_neurons(scores, fraction)


def train(model, mask, **options):
    training = dataclasses.replace(SMALL, **options)
    return finetune(model, tokenizer(), DATA, protect=OnlyTrain(mask), training=training)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd", "adafactor"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_only_the_weights_of_the_neurons_change_under_decay_and_momentum(family, optimizer):
    model = build(family)
    before, mask = state_of(model), neuron_weights(model, neurons_of(model))
    flags = [parameter.requires_grad for parameter in model.parameters()]
    train(model, mask, optimizer=optimizer, weight_decay=0.1)
    for name, value in model.state_dict().items():
        members = mask.tensors.get(name)
        if members is None:
            assert torch.equal(bits(value), bits(before[name])), name
        else:
            assert torch.equal(bits(value[~members]), bits(before[name][~members])), name
            if members.any():
                assert (value[members] != before[name][members]).float().mean() > 0.5, name
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_with_grouped_queries_only_the_rows_that_meet_are_trained():
    model = build("llama")
    before, chosen = state_of(model), neurons_of(model, "query", 1 / 32)
    train(model, neuron_weights(model, chosen))
    (place,) = (name for name, members in chosen.tensors.items() if members.any())
    index = int(chosen.tensors[place].nonzero()[0, 0])
    met = key_coordinate(index, num_heads=4, num_kv_heads=2, head_dim=4)
    for name, value in model.state_dict().items():
        rows = (value != before[name]).reshape(len(value), -1).any(dim=1).nonzero()[:, 0].tolist()
        expected = {f"{place}.q_proj.weight": [index], f"{place}.k_proj.weight": [met]}
        assert rows == expected.get(name, []), name


def test_what_is_not_trained_does_not_count_when_gradients_are_clipped():
    """Clipped to a norm of all gradients, the few that are trained would hardly move."""
    model = build("llama")
    mask = neuron_weights(model, neurons_of(model))
    guard = OnlyTrain(mask).begin(model)
    ids = torch.tensor([[5, 6, 7, 8]])
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        members = mask.tensors.get(name)
        if members is None or not members.any():
            assert parameter.grad is None, name
        else:
            assert not parameter.grad[~members].any(), name
            assert parameter.grad[members].any(), name
    guard.undo()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_training_that_fails_leaves_no_hook_and_no_flag():
    model = build("llama")
    mask = neuron_weights(model, neurons_of(model))

    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(model, tokenizer(), DATA, protect=OnlyTrain(mask), training=SMALL, on_step=fail)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_set_of_everything_or_of_nothing_is_refused():
    model = build("llama")
    whole = mask_of(model, share=2.0)
    with pytest.raises(UserError, match="the mask holds every weight"):
        train(model, whole)
    nothing = {name: members & False for name, members in whole.tensors.items()}
    with pytest.raises(UserError, match="the mask has no member"):
        train(model, WeightMask(tensors=nothing, model_id="m"))
