import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from conftest import build, examples, make_batches
from safetypin.artifacts import Batch, UserError
from safetypin.passes import passes
from safetypin.scores import snip
from safetypin.scores._gradients import Input
from safetypin.scores._snip import cross_entropy


def test_an_example_without_a_response_is_an_error():
    batch = make_batches(examples(3))[0]
    batch.response[1] = False
    with pytest.raises(UserError, match="example 1 has no response token to predict"):
        snip(build("llama"), [batch])


def test_a_response_of_the_first_token_alone_cannot_be_predicted():
    with pytest.raises(UserError, match="example 1 has no response token to predict"):
        snip(build("llama"), make_batches([([5, 6], [7]), ([], [8])], side="left"))


def test_an_unknown_reduction_is_an_error():
    with pytest.raises(UserError, match="unknown reduction 'max'; choose mean or sum"):
        snip(build("llama"), make_batches(examples(1)), reduction="max")


def test_gradients_of_opposite_sign_do_not_cancel():
    model = build("llama")
    one, other = ([5, 6, 7], [8]), ([5, 6, 7], [9])
    single = [snip(model, make_batches([row])).tensors for row in (one, other)]
    both = snip(model, make_batches([one, other])).tensors
    for name, tensor in both.items():
        torch.testing.assert_close(tensor, (single[0][name] + single[1][name]) / 2)


def test_loss_runs_over_the_response_where_other_tokens_are_counted():
    model, (batch,) = build("llama"), make_batches(examples(2))
    elsewhere = batch._replace(counted=batch.attention_mask.bool() & ~batch.counted)
    expected = snip(model, [batch])
    found = snip(model, [elsewhere])
    assert found.num_tokens == expected.num_tokens == int(batch.response.sum())
    for name, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[name], tensor)


def test_gradients_that_overflow_name_the_weight():
    model = build("llama", torch.float16)
    with torch.no_grad():  # activations, logits and loss are still finite
        model.lm_head.weight *= 500
        model.model.embed_tokens.weight *= 1e-3
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 1e-3
            layer.mlp.down_proj.weight *= 1e-3
    with pytest.raises(UserError, match=r"the gradient of model\.layers\.\S+ is not finite"):
        snip(model, make_batches(examples(1)))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 8), st.floats(0.1, 50), st.integers(0, 2**16))
def test_cross_entropy_and_its_gradient_are_those_of_torch(kept, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(kept, 7, generator=generator)).requires_grad_()
    targets = torch.randint(0, 7, (kept,), generator=generator)
    weights = torch.rand(kept, generator=generator)
    expected = functional.cross_entropy(logits, targets, reduction="none") * weights
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    losses, found = cross_entropy(logits.detach().clone(), targets, weights)
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-6)


def test_an_input_that_is_a_product_is_made_again_and_any_other_kept():
    hidden = torch.randn(2, 3, requires_grad=True)
    scale = torch.randn(3)
    gated = hidden.sigmoid() * hidden.tanh()
    normalised = scale * (hidden * hidden.square().mean().rsqrt())
    for x, rebuilt in ((gated, True), (normalised, True), (hidden + 1, False), (2 * hidden, False)):
        kept = Input.of(x)
        assert (kept.tensor is None) == rebuilt
        assert torch.equal(kept.value(), x)


def test_an_input_that_was_changed_in_place_is_noticed():
    x = torch.randn(2, 3) + 1
    kept = Input.of(x)
    x += 1
    with pytest.raises(AssertionError, match="changed after its use"):
        kept.value()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=7),
    st.integers(1, 40),
    st.sampled_from(["left", "right"]),
    st.integers(1, 4),
)
def test_passes_yield_every_example_once_within_the_limit(lengths, max_tokens, side, batch_size):
    rows = [([10 * i + 1], list(range(10 * i + 2, 10 * i + 1 + n))) for i, n in enumerate(lengths)]
    found = []
    for part in passes(make_batches(rows, batch_size, side), torch.device("cpu"), max_tokens):
        assert len(part.input_ids) == 1 or part.input_ids.numel() <= max_tokens
        assert part.attention_mask.any(dim=0)[[0, -1]].all(), "a column of padding at an end"
        for ids, mask, counted in zip(
            part.input_ids, part.attention_mask, part.counted, strict=True
        ):
            found.append((ids[(mask == 1) & ~counted].tolist(), ids[counted].tolist()))
    assert found == rows


def test_a_batch_without_a_response_loses_over_its_counted_tokens():
    model, (batch,) = build("llama"), make_batches(examples(2))
    expected = snip(model, [batch]).tensors
    for name, tensor in snip(model, [Batch(*batch[:3])]).tensors.items():
        assert torch.equal(tensor, expected[name])


def test_logits_are_made_of_the_predicted_tokens_alone():
    model, rows = build("llama"), []
    count = model.lm_head.register_forward_hook(lambda *call: rows.append(call[2][..., 0].numel()))
    found = snip(model, make_batches(examples(5)))
    count.remove()
    assert sum(rows) == found.num_tokens
    assert not model.lm_head._forward_pre_hooks
