import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import CONFIGS, build, examples, make_batches
from reference.saliency import sparsegpt_by_brute_force, sparsegpt_by_the_book
from safetypin import grams
from safetypin.artifacts import ArtifactMismatchError, UserError
from safetypin.scores import SCORERS, sparsegpt, wanda
from safetypin.scores._sparsegpt import DAMPING, unexplained_rms

DOWN = "model.layers.0.mlp.down_proj.weight"


def test_what_is_left_of_two_inputs_of_a_worked_example():
    # x1 = x0 + noise: of x0 the later x1 explains a half; nothing comes after x1
    gram = torch.tensor([[1.0, 1.0], [1.0, 2.0]]).double()
    damping = DAMPING * 1.5
    explained = 1 / (2 + damping)
    expected = [(1 + damping - explained) ** 0.5, (2 + damping) ** 0.5]
    assert unexplained_rms(gram).tolist() == pytest.approx(expected)


def test_uncorrelated_inputs_give_wandas_score_and_silent_ones_nothing():
    found = unexplained_rms(torch.diag(torch.tensor([4.0, 0.0, 9.0]).double()))
    damping = DAMPING * 13 / 3
    assert found.tolist() == pytest.approx([(4 + damping) ** 0.5, 0, (9 + damping) ** 0.5])


@given(seed=st.integers(0, 99), size=st.integers(1, 8), count=st.integers(1, 20))
def test_the_diagonal_is_that_of_the_published_code(seed, size, count):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, size, generator=generator).double()
    gram = rows.T @ rows
    book = sparsegpt_by_the_book(torch.ones(1, size).double(), gram)[0].sqrt()
    assert torch.allclose(unexplained_rms(gram), book, rtol=1e-6)
    # the later inputs never explain less than nothing
    upper = (gram.diagonal() + DAMPING * gram.diagonal().mean()).sqrt()
    assert (unexplained_rms(gram) <= upper * (1 + 1e-9)).all()


@pytest.mark.parametrize("family", CONFIGS)
def test_every_weight_has_the_saliency_of_the_published_code(family):
    model, batches = build(family), make_batches(examples(12), 4)
    scores = sparsegpt(model, batches)
    expected = sparsegpt_by_brute_force(model, batches)
    for name, book in expected.items():
        found = scores.tensors[name].double()
        assert (found - book).abs().max() < 1e-4 * book.max(), name
    assert scores.num_tokens == sum(int(batch.counted.sum()) for batch in batches)


def test_experts_count_their_own_tokens():
    model, batches = build("mixtral"), make_batches(examples(12), 4)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    found, rows = sparsegpt(model, batches).tensors[name], {}
    module = model.get_submodule(name.rpartition(".")[0])

    def see(_, args):
        hidden, chosen = args[0].reshape(-1, args[0].shape[-1]), args[1]
        for expert in range(4):
            rows.setdefault(expert, []).append(hidden[(chosen == expert).any(dim=1) & counted[0]])

    counted = [None]
    module.register_forward_pre_hook(see)
    for batch in batches:
        for ids, mask, marks in zip(
            batch.input_ids, batch.attention_mask, batch.counted, strict=True
        ):
            counted[0] = marks[mask == 1]
            with torch.no_grad():
                model(ids[mask == 1][None])
    total = sum(int(batch.counted.sum()) for batch in batches)
    for expert, parts in rows.items():
        x = torch.cat(parts).double()
        weight = module.gate_up_proj[expert].detach().double()
        book = sparsegpt_by_the_book(weight, x.T @ x / total).sqrt()
        assert (found[expert] - book).abs().max() < 1e-4 * book.max()


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_scores_do_not_depend_on_batches_padding_or_the_number_of_passes(family, monkeypatch):
    model, rows = build(family), examples(8)
    expected = sparsegpt(model, make_batches(rows, 1)).tensors
    monkeypatch.setitem(grams.MAX_TOKENS, "cpu", 30)
    seen = []
    found = sparsegpt(
        model, make_batches(rows[::-1], 3, side="left"), max_bytes=1, progress=seen.append
    ).tensors
    assert seen == sorted(seen)
    assert seen[-1] == 8
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=2e-3, atol=1e-4 * float(tensor.max()))


def test_the_score_is_never_above_wandas_by_more_than_the_damping():
    model, batches = build("llama"), make_batches(examples(12), 4)
    upper, found = wanda(model, batches).tensors[DOWN], sparsegpt(model, batches).tensors[DOWN]
    share = (upper / model.get_parameter(DOWN).abs()).square().mean(dim=1, keepdim=True)
    allowed = (upper.square() + DAMPING * share * model.get_parameter(DOWN).square()).sqrt()
    assert (found <= allowed * (1 + 1e-4)).all()
    assert found.mean() < 0.9 * upper.mean()


def test_no_counted_token_is_an_error(batch):
    silent = batch._replace(counted=torch.zeros_like(batch.counted))
    with pytest.raises(UserError, match="no token is counted"):
        sparsegpt(build("llama"), [silent])


# --- magnitude of the difference


def other_of(model_family="llama"):
    other = build(model_family)
    with torch.no_grad():
        other.get_parameter(DOWN)[0, 0] += 0.5
    return other


def test_the_difference_is_zero_where_the_models_agree():
    model, other = build("llama"), other_of()
    scores = SCORERS["magnitude-difference"](model, reference=other)
    assert scores.reference_id != scores.model_id
    for name, tensor in scores.tensors.items():
        assert int((tensor > 0).sum()) == (name == DOWN)
    assert float(scores.tensors[DOWN][0, 0]) == pytest.approx(0.5)


def test_a_missing_equal_or_unlike_reference_is_an_error():
    model, score = build("llama"), SCORERS["magnitude-difference"]
    with pytest.raises(UserError, match=r"compares with another model; give one .*--reference"):
        score(model)
    with pytest.raises(UserError, match="the reference has the weights of the model itself"):
        score(model, reference=build("llama"))
    with pytest.raises(ArtifactMismatchError, match="in the model and not in the reference"):
        score(model, reference=build("gpt2"))
    wide = build("qwen3")
    with pytest.raises(ArtifactMismatchError, match=r"q_proj.* and \(32, 16\) in the reference"):
        score(model, reference=wide)


def test_a_model_that_changed_after_scoring_is_an_error():
    model, other = build("llama"), other_of()
    scores = SCORERS["magnitude-difference"](model, reference=other)
    with torch.no_grad():
        other.get_parameter(DOWN)[0, 1] += 1
    with pytest.raises(ArtifactMismatchError, match="changed after it was scored"):
        scores.tensors[DOWN]
