"""The ablation effect against removing each unit for real, and the sets made of it."""

import pytest
import torch

from conftest import CONFIGS, build, examples, make_batches
from safetypin.artifacts import NeuronSet, UserError
from safetypin.hooks import Patch, patch_units, read_attention, read_units
from safetypin.models import key_coordinate, model_id, neuron_weights, unit_sites
from safetypin.scores import ablation_effects, mean_scores
from safetypin.select import common_neurons, top_neurons
from test_contracts import assert_same_state, state_of

DENSE = sorted(CONFIGS.keys() - {"mixtral", "qwen2_moe", "qwen3_moe"})


def output_without(model, batch, layer, unit):
    """Return the output of a layer's down projection, with one unit removed (None: none)."""
    seen = {}
    sites = {n: (s.module, s.parameter) for n, s in unit_sites(model).items() if s.layer == layer}
    (name,) = sites
    handle = sites[name][0].register_forward_hook(lambda m, a, out: seen.update(out=out))
    gone = {} if unit is None else {name: Patch(torch.tensor([unit]), lambda x: torch.zeros(1))}
    with torch.no_grad(), patch_units(sites, gone):
        model(batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids)
    handle.remove()
    return name, seen["out"].double()


@pytest.mark.parametrize("family", DENSE)
def test_the_effect_of_a_neuron_is_what_removing_it_does_to_the_output(family):
    model, batch = build(family), make_batches(examples(3))[0]
    found = list(ablation_effects(model, [batch]))
    assert len(found) == 3
    for layer in range(2):
        name, whole = output_without(model, batch, layer, None)
        for unit in (0, 7, 23):
            _, without = output_without(model, batch, layer, unit)
            change = (without - whole) * batch.counted[..., None]
            expected = change.square().sum(dim=(1, 2)).sqrt()
            for row, scores in enumerate(found):
                value = scores.tensors[name][unit].double()
                torch.testing.assert_close(value, expected[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_the_effect_of_a_query_coordinate_is_what_removing_it_does_to_the_attention(family):
    model, batch, seen = build(family), make_batches(examples(2))[0], {}
    found = list(ablation_effects(model, [batch], site="query"))
    assert len(found) == 2
    names = {id(site.module): name for name, site in unit_sites(model, "query").items()}
    padded = {"attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
    keep = lambda one: seen.update({names[id(one.module)]: one})  # noqa: E731
    with read_attention(model, keep), torch.no_grad():
        model(batch.input_ids, **padded)
    assert set(seen) == set(names.values())
    for name, one in seen.items():
        heads, size = one.query.shape[1], one.query.shape[3]
        groups = heads // one.key.shape[1]
        key = one.key.double().repeat_interleave(groups, dim=1)
        query = one.query.double()
        whole = one.logits(query @ key.mT).softmax(dim=-1)
        for head, coordinate in ((0, 0), (heads - 1, size - 1), (1, 2)):
            less = query.clone()
            less[:, head, :, coordinate] = 0
            change = one.logits(less @ key.mT).softmax(dim=-1) - whole
            for row, scores in enumerate(found):
                rows = change[row, :, batch.counted[row]]
                value = scores.tensors[name][head * size + coordinate].double()
                torch.testing.assert_close(value, rows.norm(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("site", ["neuron", "query"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_effects_do_not_depend_on_batch_size_or_padding_and_leave_the_model(family, site):
    model, rows = build(family), examples(4)
    model.train()
    before = state_of(model)
    expected = list(ablation_effects(model, make_batches(rows, 1), site=site))
    for side in ("left", "right"):
        found = list(ablation_effects(model, make_batches(rows, 4, side), site=site))
        for one, other in zip(found, expected, strict=True):
            for name, tensor in other.tensors.items():
                torch.testing.assert_close(one.tensors[name], tensor, rtol=1e-4, atol=1e-6)
    assert_same_state(state_of(model), before)


def test_a_key_coordinate_is_that_of_the_head_that_its_group_shares():
    """32 heads over 8 of 128: the published `num // 4` says 32 for 129, which is coordinate 1."""
    shape = {"num_heads": 32, "num_kv_heads": 8, "head_dim": 128}
    pairs = {0: 0, 129: 1, 511: 127, 512: 128, 4095: 1023}
    assert {index: key_coordinate(index, **shape) for index in pairs} == pairs


def test_the_weights_of_a_query_coordinate_are_its_rows():
    """Grouped queries: zeroing the rows must kill that coordinate and its key's, and no other."""
    model = build("llama")
    (name, *_), sites = unit_sites(model, "query"), unit_sites(model, "query")
    scores = next(iter(ablation_effects(model, make_batches(examples(1)), site="query")))
    chosen = top_neurons(scores, 1 / 32)
    mask = neuron_weights(model, chosen)
    assert chosen.num_selected == 1
    place = next(n for n, members in chosen.tensors.items() if members.any())
    index = int(chosen.tensors[place].nonzero()[0, 0])
    query = mask.tensors[f"{place}.q_proj.weight"]
    key = mask.tensors[f"{place}.k_proj.weight"]
    assert query.any(dim=1).nonzero()[:, 0].tolist() == [index]
    met = key_coordinate(index, num_heads=4, num_kv_heads=2, head_dim=4)
    assert key.any(dim=1).nonzero()[:, 0].tolist() == [met]
    assert mask.num_selected == 2 * 16
    assert name in sites


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "gpt_neox", "mixtral", "qwen2_moe"])
def test_without_its_weights_a_neuron_is_silent_and_the_others_are_as_before(family):
    model, batch = build(family), make_batches(examples(2))[0]
    sites = unit_sites(model)
    where = {name: (site.module, site.parameter) for name, site in sites.items()}
    name, site = next(iter(sites.items()))
    members = torch.zeros(site.shape, dtype=torch.bool)
    members[..., 5] = True
    tensors = {n: torch.zeros(s.shape, dtype=torch.bool) for n, s in sites.items()} | {
        name: members
    }
    mask = neuron_weights(model, NeuronSet(tensors=tensors, model_id=model_id(model)))

    def read():
        seen = {}
        with torch.no_grad(), read_units(where, lambda c: seen.setdefault((c.name, c.expert), c.x)):
            model(batch.input_ids)
        return {key: x for key, x in seen.items() if key[0] == name}

    before = read()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key in mask.tensors:
                parameter.masked_fill_(mask.tensors[key], 0.0)
    for key, x in read().items():
        assert x[..., 5].abs().max() == 0
        others = [unit for unit in range(x.shape[-1]) if unit != 5]
        torch.testing.assert_close(x[..., others], before[key][..., others])


def test_units_that_matter_for_every_prompt_are_common():
    model = build("llama")
    effects = list(ablation_effects(model, make_batches(examples(4))))
    tops = [top_neurons(one, 0.5, group="layer") for one in effects]
    common = common_neurons(effects, 0.5)
    assert common.fingerprint == (tops[0] & tops[1] & tops[2] & tops[3]).fingerprint
    assert 0 < common.num_selected < tops[0].num_selected
    mean = mean_scores(effects)
    assert mean.num_examples == 4
    for name, tensor in mean.tensors.items():
        torch.testing.assert_close(tensor, torch.stack([e.tensors[name] for e in effects]).mean(0))
    running = effects[0]
    for effect in effects[1:]:
        running = mean_scores([running, effect])
    assert running.num_examples == 4
    for name, tensor in mean.tensors.items():
        torch.testing.assert_close(running.tensors[name], tensor)


@pytest.mark.parametrize(
    ("site", "loud", "named"),
    [
        ("neuron", ("mlp.up_proj", "mlp.gate_proj"), r"layers\.1\.mlp\.down_proj"),
        ("query", ("self_attn.q_proj",), r"layers\.1\.self_attn"),
    ],
)
def test_activations_that_overflow_float16_are_an_error_that_names_the_layer(site, loud, named):
    model, batches = build("llama", torch.float16), make_batches(examples(2))
    for scores in ablation_effects(model, batches, site=site):
        assert all(tensor.isfinite().all() for tensor in scores.tensors.values())
    with torch.no_grad():
        for path in loud:
            model.model.layers[1].get_submodule(path).weight.mul_(6e4)
    said = named + " are not finite numbers; load the model in bfloat16 or float32"
    with pytest.raises(UserError, match=said):
        list(ablation_effects(model, batches, site=site))


def test_what_cannot_be_measured_is_said():
    batch = make_batches(examples(1))
    with pytest.raises(UserError, match="what the router gives its expert"):
        list(ablation_effects(build("mixtral"), batch))
    with pytest.raises(UserError, match="the ablation effect is known of neuron and query"):
        list(ablation_effects(build("llama"), batch, site="residual"))
    nothing = batch[0]._replace(counted=torch.zeros_like(batch[0].counted))
    with pytest.raises(UserError, match="example 0 has no counted token"):
        list(ablation_effects(build("llama"), [nothing]))
    with pytest.raises(UserError, match="no example"):
        mean_scores([])
    with pytest.raises(UserError, match="no example"):
        common_neurons([], 0.5)
    model = build("gpt2")
    found = next(iter(ablation_effects(model, batch, site="query")))
    with pytest.raises(UserError, match="queries, keys and values in one matrix"):
        neuron_weights(model, top_neurons(found, 0.1))
