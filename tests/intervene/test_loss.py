"""The loss of a step, from the logits of the tokens to learn alone."""

import dataclasses

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from conftest import CONFIGS, GROUPED, build
from intervene.finetuning import DATA, SMALL, columns_of, state_of, tokenizer
from safetypin.intervene import Freeze, Full, Lora, finetune, training_rows
from safetypin.intervene import _trainer as trainer_module
from safetypin.intervene._data import padded
from safetypin.intervene._loss import is_own_loss, learnt, loss_of
from safetypin.passes import head_cut_to


def batch(size=3):
    return padded(training_rows(tokenizer(), DATA).rows[:size], pad=0)


def gradients(model):
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def test_what_is_learnt_is_predicted_by_the_token_before_it():
    where, wanted = learnt(torch.tensor([[-100, -100, 7, 8], [-100, 9, 7, -100]]))
    assert where.tolist() == [[False, True, True, False], [True, True, False, False]]
    assert wanted.tolist() == [7, 8, 9, 7]


@pytest.mark.parametrize("num_items", [None, 40, torch.tensor(40)])
@pytest.mark.parametrize("family", CONFIGS)
def test_loss_and_gradients_are_those_of_the_model_itself(family, num_items):
    model, inputs = build(family).eval(), batch()
    own = model(**inputs, num_items_in_batch=num_items).loss
    own.backward()
    expected = gradients(model)
    model.zero_grad()
    labels = inputs.pop("labels")
    with head_cut_to(model, learnt(labels)[0]):
        outputs = model(**inputs)
    assert outputs.logits.shape[:2] == (1, int((labels != -100).sum()))
    ours = loss_of(outputs, labels, num_items)
    ours.backward()
    assert torch.allclose(ours, own, rtol=1e-5)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_logits_of_all_tokens_give_the_same():
    model, inputs = build("llama").eval(), batch()
    own = model(**inputs).loss
    assert torch.allclose(loss_of(model(**inputs), inputs["labels"]), own)


def test_a_loss_with_other_terms_is_left_to_the_model():
    assert is_own_loss(build("llama"), batch())
    config = MixtralConfig(
        **GROUPED, num_local_experts=4, num_experts_per_tok=2, output_router_logits=True,
        router_aux_loss_coef=0.5,
    )  # fmt: skip
    assert not is_own_loss(MixtralForCausalLM(config), batch())


def test_being_tried_changes_nothing_of_a_model():
    model = build("llama").train()
    before = state_of(model)
    state = torch.get_rng_state()
    assert is_own_loss(model, batch())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


PROTECTIONS = {
    "full": lambda model: Full(),
    "freeze": lambda model: Freeze(columns_of(model)),
    "lora": lambda model: Lora(dropout=0.0),
}


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("protect", PROTECTIONS.values(), ids=PROTECTIONS)
def test_a_training_ends_with_the_weights_that_the_models_own_loss_gives(
    protect, accumulation, monkeypatch
):
    def tuned(model):
        training = dataclasses.replace(SMALL, accumulation=accumulation)
        return finetune(model, tokenizer(), DATA, protect=protect(model), training=training)

    ours = state_of(tuned(build("llama")))
    monkeypatch.setattr(trainer_module, "is_own_loss", lambda *_: False)
    own = state_of(tuned(build("llama")))
    for name, value in own.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


def test_a_training_step_has_no_logits_but_those_of_the_tokens_to_learn(monkeypatch):
    shapes = []

    def spied(outputs, labels, num_items_in_batch=None):
        shapes.append((tuple(outputs["logits"].shape[:2]), int((labels[:, 1:] != -100).sum())))
        return loss_of(outputs, labels, num_items_in_batch)

    monkeypatch.setattr(trainer_module, "loss_of", spied)
    finetune(build("llama"), tokenizer(), DATA, protect=Full(), training=SMALL)
    assert len(shapes) == 4
    assert all(shape == (1, number) for shape, number in shapes)
