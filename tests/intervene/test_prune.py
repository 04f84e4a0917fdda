import pytest
import torch

import safetypin as sp
from conftest import CONFIGS, build
from safetypin.artifacts import ArtifactMismatchError, WeightMask
from safetypin.intervene import check_mask, pruned
from safetypin.models import block_weights

UP = "model.layers.0.mlp.up_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
TOKENS = torch.tensor([[3, 4, 5, 6]])


def mask_of(model, names, share=0.3, seed=0, **about):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        n: torch.rand(model.get_parameter(n).shape, generator=generator) < share for n in names
    }
    return WeightMask(tensors=tensors, **{"model_id": "m", **about})


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_unchanged(model, before):
    for name, value in model.state_dict().items():
        assert torch.equal(value.view(torch.uint8), before[name].view(torch.uint8)), name


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_weights_are_zero_inside_and_back_bit_for_bit_after(family, dtype):
    model = build(family, dtype)
    before = state_of(model)
    mask = mask_of(model, block_weights(model))
    with pruned(model, mask) as inside:
        assert inside is model
        for name, value in model.state_dict().items():
            members = mask.tensors.get(name)
            kept = before[name] if members is None else before[name].masked_fill(members, 0)
            assert torch.equal(value, kept), name
    assert_unchanged(model, before)


def test_a_pruned_model_computes_as_one_whose_weights_are_zero(tiny_llama):
    mask = mask_of(tiny_llama, [UP, DOWN])
    other = build("llama")
    with torch.no_grad():
        for name, members in mask.tensors.items():
            other.get_parameter(name)[members] = 0
    with sp.pruned(tiny_llama, mask), torch.no_grad():
        found = tiny_llama(TOKENS).logits
    assert torch.equal(found, other(TOKENS).logits)


def test_the_model_is_restored_after_an_exception(tiny_llama):
    before = state_of(tiny_llama)
    with pytest.raises(ZeroDivisionError), pruned(tiny_llama, mask_of(tiny_llama, [UP])):
        raise ZeroDivisionError
    assert_unchanged(tiny_llama, before)


def test_every_bit_pattern_comes_back():
    model = build("llama")
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    with torch.no_grad():
        model.get_parameter(UP).view(-1)[:4] = odd
    before = state_of(model)
    with pruned(model, mask_of(model, [UP], share=1.1)):
        assert not model.get_parameter(UP).any()
    assert_unchanged(model, before)


def test_pruning_can_be_nested_with_sets_that_overlap(tiny_llama):
    before = state_of(tiny_llama)
    outer, inner = mask_of(tiny_llama, [UP, DOWN], seed=0), mask_of(tiny_llama, [UP], seed=1)
    with pruned(tiny_llama, outer):
        middle = state_of(tiny_llama)
        with pruned(tiny_llama, inner):
            both = outer.tensors[UP] | inner.tensors[UP]
            assert torch.equal(tiny_llama.get_parameter(UP), before[UP].masked_fill(both, 0))
        assert_unchanged(tiny_llama, middle)
    assert_unchanged(tiny_llama, before)


def test_an_empty_set_changes_nothing(tiny_llama):
    before = state_of(tiny_llama)
    with pruned(tiny_llama, mask_of(tiny_llama, [UP], share=0)):
        assert_unchanged(tiny_llama, before)


def test_masked_weights_can_take_a_references_values(tiny_llama):
    reference = build("llama", torch.bfloat16)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(1)
    before, given = state_of(tiny_llama), state_of(reference)
    mask = mask_of(tiny_llama, [UP, DOWN])
    with pruned(tiny_llama, mask, reference=reference):
        for name, members in mask.tensors.items():
            expected = torch.where(members, given[name].float(), before[name])
            assert torch.equal(tiny_llama.get_parameter(name), expected)
    assert_unchanged(tiny_llama, before)
    assert_unchanged(reference, given)


def test_a_tied_weight_changes_in_both_places_and_comes_back():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    before = state_of(model)
    name = "model.embed_tokens.weight"
    mask = mask_of(model, [name], share=1.1)
    with pruned(model, mask):
        assert not model.lm_head.weight.any()
    assert_unchanged(model, before)
    assert model.lm_head.weight is model.get_parameter(name)


def test_flags_and_gradients_stay_as_they_are(tiny_llama):
    weight = tiny_llama.get_parameter(UP)
    weight.grad = torch.ones_like(weight)
    with pruned(tiny_llama, mask_of(tiny_llama, [UP])):
        assert weight.requires_grad
        tiny_llama(TOKENS).logits.sum().backward()
    assert weight is tiny_llama.get_parameter(UP)
    assert weight.grad is not None


def message_of(model, mask, **options):
    before = state_of(model)
    with pytest.raises(ArtifactMismatchError) as error, pruned(model, mask, **options):
        pytest.fail("pruned all the same")
    assert_unchanged(model, before)
    return str(error.value)


def test_a_mask_with_a_weight_that_the_model_lacks_is_refused(tiny_llama):
    deep = "model.layers.9.mlp.up_proj.weight"
    mask = WeightMask(
        tensors={**mask_of(tiny_llama, [UP]).tensors, deep: torch.ones(1, dtype=torch.bool)},
        model_id="m",
    )
    assert message_of(tiny_llama, mask) == (
        f"the mask is of another model: LlamaForCausalLM has no weight {deep!r}"
    )


def test_a_mask_of_another_shape_is_refused(tiny_llama):
    mask = WeightMask(tensors={UP: torch.ones(16, 24, dtype=torch.bool)}, model_id="m")
    assert message_of(tiny_llama, mask) == (
        f"the mask is of another model: {UP} is (16, 24) in the mask and (24, 16) in the model"
    )


def test_a_mask_in_rotated_coordinates_is_refused(tiny_llama):
    mask = mask_of(tiny_llama, [UP], space="abc")
    assert message_of(tiny_llama, mask) == (
        "the mask is in the basis abc, not over weights; only Warp(basis, mask) (--protect warp) "
        "can use it"
    )
    with pytest.raises(ArtifactMismatchError):
        check_mask(tiny_llama, mask)


def test_a_reference_of_another_architecture_is_refused(tiny_llama):
    mask = mask_of(tiny_llama, [UP])
    assert message_of(tiny_llama, mask, reference=build("gpt2")) == (
        f"the mask is of another model: GPT2LMHeadModel has no weight {UP!r}"
    )
