import pytest
import torch
from torch.nn import functional

from conftest import SCORED_FAMILIES, build, examples, make_batches
from reference.scores import doubled, rows_of, snip_by_brute_force, wanda_by_brute_force
from safetypin.models import block_weights, blocks
from safetypin.scores import _memory, _snip, snip, wanda

# float32 against float64: a sum of products of both signs is right to about 1e-5 of the largest
# score of its matrix, the scores that are not near zero to 1e-4 of themselves
RTOL, ATOL_OF_MAX = 1e-4, 1e-5


def assert_same_scores(found, expected, rtol=RTOL, atol_of_max=ATOL_OF_MAX):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        largest = float(tensor.max())
        assert largest > 0, name
        torch.testing.assert_close(
            found[name].double(),
            tensor.double(),
            rtol=rtol,
            atol=atol_of_max * largest,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("family", SCORED_FAMILIES)
def test_snip_is_the_mean_absolute_product_of_weight_and_gradient(family):
    model, batches = build(family), make_batches(examples(), batch_size=3)
    scores = snip(model, batches)
    assert_same_scores(scores.tensors, snip_by_brute_force(model, batches, scores.tensors))
    assert scores.num_examples == 5


@pytest.mark.parametrize("family", SCORED_FAMILIES)
def test_wanda_is_weight_times_root_mean_square_input(family):
    model, batches = build(family), make_batches(examples(), batch_size=3)
    scores = wanda(model, batches)
    assert_same_scores(scores.tensors, wanda_by_brute_force(model, batches, scores.tensors))
    assert scores.num_tokens == sum(int(batch.counted.sum()) for batch in batches)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_snip_of_the_summed_loss_weighs_long_responses_more(family):
    model, batches = build(family), make_batches(examples())
    scores = snip(model, batches, reduction="sum")
    expected = snip_by_brute_force(model, batches, scores.tensors, reduction="sum")
    assert_same_scores(scores.tensors, expected)
    assert not torch.allclose(
        next(iter(scores.tensors.values())), next(iter(snip(model, batches).tensors.values()))
    )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", SCORED_FAMILIES)
def test_snip_of_many_examples_in_one_pass_is_the_same(family, side, monkeypatch):
    monkeypatch.setitem(_snip.MAX_TOKENS, "cpu", 10_000)  # as on a GPU
    model, batches = build(family), make_batches(examples(), side=side)
    scores = snip(model, batches)
    assert_same_scores(scores.tensors, snip_by_brute_force(model, batches, scores.tensors))


@pytest.mark.parametrize("family", SCORED_FAMILIES)
def test_snip_is_the_same_when_blocks_are_recomputed(family, monkeypatch):
    monkeypatch.setitem(_snip.MAX_TOKENS, "cpu", 1)  # five passes
    model, batches = build(family), make_batches(examples())
    monkeypatch.setattr(_memory, "ACTIVATION_SHARE", 1e6)
    expected = snip(model, batches).tensors
    num_calls = []
    blocks(model)[0].register_forward_hook(lambda *_: num_calls.append(1))
    first_linear = next(iter(block_weights(model).values())).module
    first_linear.register_forward_hook(lambda *_: num_calls.append(2))
    monkeypatch.setattr(_memory, "ACTIVATION_SHARE", 0.0)
    found = snip(model, batches).tensors
    assert_same_scores(found, expected, rtol=1e-6, atol_of_max=1e-7)
    assert num_calls.count(2) == 2 * num_calls.count(1) == 2 * 5


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_snip_is_the_first_order_change_of_the_loss_when_a_weight_is_removed(family):
    model, batches = build(family), make_batches(examples(2))
    scores = snip(model, batches)
    exact, step = doubled(model), 1e-2  # the norms of Llama compute in float32 all the same

    @torch.no_grad()
    def losses():
        found = []
        for ids, counted in rows_of(batches):
            logits, response = exact(ids).logits[0, :-1], counted[1:]
            found.append(functional.cross_entropy(logits[response], ids[0, 1:][response]))
        return torch.stack(found)

    generator = torch.Generator().manual_seed(0)
    for name, tensor in scores.tensors.items():
        weight = exact.get_parameter(name).data.view(-1)
        for index in torch.randint(0, len(weight), (3,), generator=generator).tolist():
            value = weight[index].clone()
            weight[index] = value * (1 + step)
            more = losses()
            weight[index] = value * (1 - step)
            less = losses()
            weight[index] = value
            expected = ((more - less) / (2 * step)).abs().mean()
            assert float(tensor.view(-1)[index]) == pytest.approx(
                float(expected), rel=2e-3, abs=5e-4 * float(tensor.max())
            )
