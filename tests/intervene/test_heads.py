"""Attention heads: probed, ranked, silenced."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import safetypin as sp
from conftest import CONFIGS, build, examples, make_batches
from safetypin.artifacts import ArtifactMismatchError, NeuronScores, NeuronSet, UserError
from safetypin.hooks import read_units
from safetypin.intervene import heads_ablated
from safetypin.models import block_weights, head_sites, model_id
from safetypin.scores import probe_heads
from safetypin.scores._heads import probe_accuracy
from safetypin.select import layer_shares, random_heads, ties_at, top_heads

TOKENS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])


def heads_of(model, chosen):
    """Return a set of heads: by layer, their indices."""
    tensors = {}
    for name, site in head_sites(model).items():
        members = torch.zeros(site.num_heads, dtype=torch.bool)
        members[list(chosen.get(site.layer, ()))] = True
        tensors[name] = members
    return NeuronSet(tensors=tensors, model_id=model_id(model), site="head")


def inputs_of(model):
    """Return what the output projections read: by layer (batch, seq, heads, head_dim)."""
    sites, seen = head_sites(model), {}
    where = {name: (site.module, site.parameter) for name, site in sites.items()}

    def see(call):
        site = sites[call.name]
        seen[site.layer] = call.x.detach().clone().unflatten(-1, (site.num_heads, site.head_dim))

    with read_units(where, see), torch.no_grad():
        logits = model(TOKENS).logits
    return seen, logits


def queries_of(model, layer, head):
    """Return the weight that makes a head's queries, and which of its outputs they are."""
    size = head_sites(model).popitem()[1].head_dim
    found = {w.role: w for w in block_weights(model).values() if w.layer == layer}
    if "attn_q" in found:
        return found["attn_q"], range(head * size, (head + 1) * size)
    fused = found["attn_qkv"]
    # GPT-NeoX puts queries, keys and values of one head together
    start = head * 3 * size if model.config.model_type == "gpt_neox" else head * size
    return fused, range(start, start + size)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_has_its_heads(family):
    sites = head_sites(build(family))
    assert [(site.layer, site.num_heads) for site in sites.values()] == [(0, 4), (1, 4)]


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("head", [0, 3])
def test_a_head_is_the_slice_that_its_queries_make(family, head):
    model = build(family)
    before, _ = inputs_of(model)
    weight, rows = queries_of(model, 0, head)
    with torch.no_grad():
        values = weight.weight if weight.layout == "linear" else weight.weight.T
        values[list(rows)] += torch.randn(len(rows), values.shape[1])
    after, _ = inputs_of(model)
    moved = (after[0] != before[0]).any(dim=-1).any(dim=0).any(dim=0)
    expected = [index == head for index in range(4)]
    # a norm over all queries of a token moves every head a little
    assert moved.tolist() == (expected if family != "olmo2" else [True] * 4)


@pytest.mark.parametrize("family", CONFIGS)
def test_ablated_heads_are_silent_and_the_others_bit_equal(family):
    model = build(family)
    plain, logits = inputs_of(model)
    with heads_ablated(model, heads_of(model, {0: [1, 3]})) as inside:
        assert inside is model
        found, changed = inputs_of(model)
    assert (found[0][:, :, [1, 3]] == 0).all()
    assert torch.equal(found[0][:, :, [0, 2]], plain[0][:, :, [0, 2]])
    assert not torch.equal(changed, logits)
    assert torch.equal(inputs_of(model)[1], logits)


@pytest.mark.parametrize("family", CONFIGS)
def test_ablating_heads_is_zeroing_what_reads_them(family):
    model, other = build(family), build(family)
    chosen = heads_of(model, {0: [2], 1: [0, 1]})
    with heads_ablated(model, chosen):
        found, logits = inputs_of(model)
    for name, site in head_sites(other).items():
        members = chosen.tensors[name].repeat_interleave(site.head_dim)
        weight = site.module.get_parameter(site.parameter)
        with torch.no_grad():
            weight.data[members if family == "gpt2" else (slice(None), members)] = 0
    assert torch.allclose(inputs_of(other)[1], logits, rtol=1e-4, atol=1e-5)
    assert (found[1][:, :, [0, 1]] == 0).all()


def test_hooks_of_the_caller_survive_and_nothing_is_left_behind_after_an_error():
    model, calls = build("llama"), []
    projection = head_sites(model).popitem()[1].module

    def interrupt(*_):
        calls.append("theirs")
        raise KeyboardInterrupt

    handle = projection.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), heads_ablated(model, heads_of(model, {1: [0]})):
        model(TOKENS)
    assert calls == ["theirs"]
    assert list(projection._forward_pre_hooks) == [handle.id]
    handle.remove()
    plain = inputs_of(model)[1]
    with heads_ablated(model, heads_of(model, {})):
        assert torch.equal(inputs_of(model)[1], plain)


def test_sets_of_other_units_or_models_are_errors():
    model = build("llama")
    with pytest.raises(ArtifactMismatchError, match="GPT2LMHeadModel has no heads at"):
        heads_ablated(build("gpt2"), heads_of(model, {0: [1]})).__enter__()
    name = next(iter(head_sites(model)))
    few = NeuronSet(tensors={name: torch.ones(3, dtype=torch.bool)}, model_id="m", site="head")
    with pytest.raises(ArtifactMismatchError, match="has 3 heads in the set and 4 in the model"):
        heads_ablated(model, few).__enter__()
    neurons = NeuronSet(tensors={}, model_id="m", site="neuron")
    with pytest.raises(UserError, match="at site neuron, not of heads; use `ablated`"):
        heads_ablated(model, neurons).__enter__()


def test_heads_that_do_not_divide_the_projection_are_refused_by_name():
    model = build("llama")
    model.config.num_attention_heads = 3
    with pytest.raises(UserError, match=r"0\.self_attn\.o_proj reads 16 .* which 3 heads do not"):
        head_sites(model)
    model = build("llama")
    for layer in model.model.layers:
        layer.self_attn.unusual = layer.self_attn.o_proj
        del layer.self_attn.o_proj
    with pytest.raises(UserError, match="no attention head of LlamaForCausalLM is known"):
        head_sites(model)


# --- probes


def test_a_probe_tells_what_is_told_apart_and_nothing_else():
    generator = np.random.default_rng(0)
    labels = np.repeat([1, 0], 20)
    noise = generator.normal(size=(40, 3)).astype(np.float32)
    told = noise + 9 * labels[:, None].astype(np.float32)
    assert probe_accuracy(told, labels, seed=0) == 1.0
    assert probe_accuracy(noise, labels, seed=0) < 0.75
    constant = np.ones((40, 3), dtype=np.float32)
    assert probe_accuracy(constant, labels, seed=0) <= 0.5


def planted(head, layer=0):
    """Return a model where one head of a layer alone reads whether token 3 is in the prompt.

    Its values are the only ones that see the embedding's coordinate 0.
    """
    model = build("llama")
    size = model.config.head_dim
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0
        model.model.embed_tokens.weight[3, 0] = 30.0
        for block in model.model.layers:
            block.self_attn.v_proj.weight.normal_(std=1e-3)
            block.self_attn.q_proj.weight.zero_()  # every token attends to all alike
        model.model.layers[layer].self_attn.v_proj.weight[head // 2 * size, 0] = 9.0
    return model


def prompts(marked, count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        ids = torch.randint(4, 64, (5,), generator=generator).tolist()
        rows.append(([*ids[:2], 3 if marked else 4, *ids[2:]], [5, 6]))
    return make_batches(rows, 4)


def test_probes_find_the_heads_that_know():
    model = planted(head=2)
    scores = probe_heads(model, prompts(True), prompts(False, seed=1), seed=0, prompts_id="p")
    assert (scores.site, scores.method, scores.num_examples) == ("head", "head-probe", 24)
    assert (scores.model_id, scores.prompts_id) == (model_id(model), "p")
    first = scores.tensors["model.layers.0.self_attn.o_proj"]
    assert first.dtype == torch.float32
    assert (first[2:] == 1).all()  # both query heads of the key head that holds it
    again = probe_heads(model, prompts(True), prompts(False, seed=1), seed=0)
    assert all(torch.equal(again.tensors[name], part) for name, part in scores.tensors.items())


@pytest.mark.parametrize("family", CONFIGS)
def test_every_familys_heads_can_be_probed_and_the_model_stays_as_it_is(family):
    model = build(family).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    scores = probe_heads(
        model, make_batches(examples(6)), make_batches(examples(6, 1)), progress=seen.append
    )
    assert [part.shape for part in scores.tensors.values()] == [(4,), (4,)]
    assert all(((part >= 0) & (part <= 1)).all() for part in scores.tensors.values())
    assert seen[-1] == 12
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_probe_reads_the_last_prompt_token_whatever_is_padded_or_counted():
    model, rows = build("llama"), examples(12)
    expected = probe_heads(model, make_batches(rows[:6], 1), make_batches(rows[6:], 1))
    others = [
        [make_batches(part, 4, side="left") for part in (rows[:6], rows[6:])],
        # another response, and none at all, is not read
        [make_batches([(p, [9, 9]) for p, _ in part]) for part in (rows[:6], rows[6:])],
        [make_batches([(p, []) for p, _ in part]) for part in (rows[:6], rows[6:])],
    ]
    for safety, utility in others:
        found = probe_heads(model, safety, utility)
        for name, part in expected.tensors.items():
            assert (found.tensors[name] - part).abs().max() < 0.1, name


def test_too_few_prompts_and_prompts_without_a_token_are_errors():
    model = build("llama")
    with pytest.raises(UserError, match="6 safety and 4 utility prompts are too few"):
        probe_heads(model, make_batches(examples(6)), make_batches(examples(4)))
    with pytest.raises(UserError, match="a response has no prompt before it"):
        probe_heads(model, make_batches([([], [3, 4])]), make_batches(examples(4)))


def test_activations_that_are_not_finite_are_an_error_that_names_the_layer():
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight.fill_(torch.inf)
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.o_proj are not finite"):
        probe_heads(model, make_batches(examples(6)), make_batches(examples(6, 1)))


# --- sets of heads


def scores_of(*rows):
    tensors = {
        f"model.layers.{i}.self_attn.o_proj": torch.tensor(row) for i, row in enumerate(rows)
    }
    return NeuronScores(tensors=tensors, site="head", method="head-probe", model_id="m#1")


def test_the_top_heads_are_those_of_the_highest_scores():
    chosen = top_heads(scores_of([0.9, 0.5, 0.7], [0.6, 0.8, 0.4]), 3, seed=0)
    assert chosen.site == "head"
    assert [tensor.tolist() for tensor in chosen.tensors.values()] == [
        [True, False, True],
        [False, True, False],
    ]


def test_ties_are_broken_at_random_over_all_layers():
    scores = scores_of(*[[1.0] * 4] * 8, [0.9] * 4)
    assert ties_at(scores, 8) == (32, 8)
    counts = np.zeros(9)
    for seed in range(200):
        chosen = top_heads(scores, 8, seed=seed)
        assert chosen.num_selected == 8
        counts += [share.num_selected for share in layer_shares(chosen)]
    assert counts[8] == 0
    assert counts[:8].min() > 150  # 200 of each are expected, with a deviation of 11
    assert counts[:8].max() < 250
    assert top_heads(scores, 8, seed=3).fingerprint == top_heads(scores, 8, seed=3).fingerprint


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=4),
    st.integers(0, 20),
    st.integers(0, 3),
)
def test_no_head_outside_of_the_top_is_better_than_one_in_it(rows, k, seed):
    scores = scores_of(*[[float(value) for value in row] for row in rows])
    flat = torch.cat(list(scores.tensors.values()))
    k = min(k, len(flat))
    chosen = torch.cat(list(top_heads(scores, k, seed=seed).tensors.values()))
    assert chosen.sum() == k
    if 0 < k < len(flat):
        assert flat[chosen].min() >= flat[~chosen].max()
        ties = ties_at(scores, k)
        assert ties.num_taken == (flat[chosen] == flat[chosen].min()).sum()
        assert ties.num_tied == (flat == flat[chosen].min()).sum()


@given(st.integers(0, 12), st.integers(0, 3))
def test_random_heads_are_as_many_and_others_as_far_as_there_are(k, seed):
    chosen = top_heads(scores_of(list(map(float, range(6))), list(map(float, range(6)))), k, seed=0)
    control = random_heads(chosen, seed=seed)
    assert control.num_selected == k
    assert (control & chosen).num_selected == max(0, 2 * k - 12)
    assert control.fingerprint == random_heads(chosen, seed=seed).fingerprint


def test_wrong_numbers_of_heads_and_bad_scores_are_errors():
    for k in (-1, 4):
        with pytest.raises(UserError, match=f"the model has 3 heads; k must .*, got {k}"):
            top_heads(scores_of([0.1, 0.2, 0.3]), k, seed=0)
    with pytest.raises(UserError, match="some head-probe scores of heads are not finite"):
        top_heads(scores_of([0.1, float("nan")]), 1, seed=0)
    assert ties_at(scores_of([0.1]), 0) == (0, 0)


def test_scores_and_sets_of_heads_come_back_from_files(tmp_path):
    scores = scores_of([0.9, 0.5], [0.6, 0.8])
    sp.save(scores, tmp_path / "scores")
    chosen = top_heads(sp.load(tmp_path / "scores"), 2, seed=0)
    sp.save(chosen, tmp_path / "heads")
    again = sp.load(tmp_path / "heads")
    assert (again.site, again.fingerprint) == ("head", chosen.fingerprint)


def test_a_control_of_tied_heads_does_not_go_in_the_order_that_broke_the_ties():
    # in that order the control would be the heads that just missed the set
    scores = scores_of(*[[1.0] * 4] * 8)
    shared = 0
    for seed in range(100):
        chosen, twice = (top_heads(scores, k, seed=seed) for k in (8, 16))
        shared += (random_heads(chosen, seed=seed) & (twice - chosen)).num_selected
    assert 200 < shared < 340  # 8 of 24 others, a third of them the next ones: 267 are expected
