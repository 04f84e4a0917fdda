"""Which units each family has, and what is said of those that are not there."""

import pytest
import torch
from peft import LoraConfig
from torch import nn

from conftest import CONFIGS, adapted, build, examples, make_batches
from safetypin.artifacts import ArtifactMismatchError, NeuronSet, UserError
from safetypin.hooks import read_units
from safetypin.models import (
    base_fingerprint,
    check_neurons,
    check_same_units,
    model_fingerprint,
    model_id,
    unit_sites,
)

WIDTHS = {"qwen2_moe": 4 * 12 + 20, "qwen3_moe": 4 * 12, "mixtral": 4 * 24}


def tuned(model):
    """Return the model with an adapter that does something."""
    config = LoraConfig(r=2, target_modules=["up_proj", "down_proj"], init_lora_weights=False)
    return adapted(model, config)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_has_its_neurons(family):
    sites = unit_sites(build(family), "neuron")
    by_layer = {}
    for site in sites.values():
        by_layer[site.layer] = by_layer.get(site.layer, 0) + site.num_units
    assert by_layer == dict.fromkeys(range(2), WIDTHS.get(family, 24))


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_has_one_residual_site_a_layer(family):
    sites = unit_sites(build(family), "residual").values()
    assert [(site.layer, site.shape) for site in sites] == [(0, (16,)), (1, (16,))]


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_has_its_queries(family):
    model = build(family)
    size = getattr(model.config, "head_dim", None) or 4
    assert [site.shape for site in unit_sites(model, "query").values()] == [(4 * size,)] * 2


@pytest.mark.parametrize("family", CONFIGS)
def test_a_neuron_is_an_input_of_what_writes_the_output_of_its_mlp(family):
    model, seen = build(family), {}
    sites = {**unit_sites(model, "neuron"), **unit_sites(model, "residual")}
    where = {name: (site.module, site.parameter) for name, site in sites.items()}
    with read_units(where, lambda call: seen.setdefault(call.name, call.x)), torch.no_grad():
        model(make_batches(examples(1))[0].input_ids)
    assert seen.keys() == sites.keys()
    for name, site in sites.items():
        assert seen[name].shape[-1] == site.shape[-1]


def test_an_adapter_changes_neither_names_nor_shapes():
    plain = {n: s.shape for n, s in unit_sites(build("llama")).items()}
    assert {n: s.shape for n, s in unit_sites(tuned(build("llama"))).items()} == plain


def test_the_base_of_a_peft_model_has_the_id_that_it_has_alone():
    alone = model_fingerprint(build("llama"))
    assert base_fingerprint(tuned(build("llama"))) == alone


def test_a_model_without_adapter_has_no_base():
    with pytest.raises(UserError, match="carries no adapter that could be turned off"):
        base_fingerprint(build("llama"))


def test_an_unknown_site_is_named_with_the_known_ones():
    with pytest.raises(UserError, match="unknown site 'mlp'; choose one of neuron, resid"):
        unit_sites(build("llama"), "mlp")


def test_what_differs_between_two_models_is_said():
    wide = CONFIGS["llama"]()
    wide.intermediate_size = 32
    deep = CONFIGS["llama"]()
    deep.num_hidden_layers = 3
    thin = CONFIGS["llama"]()
    thin.hidden_size = 8
    kind = type(build("llama"))
    for config, said in (
        (wide, r"differ at model\.layers\.0\.mlp\.down_proj: \(24,\) units and \(32,\)"),
        (deep, "differ in their layers: 2 and 3"),
        (thin, "differ in their hidden size: 16 and 8"),
    ):
        with pytest.raises(ArtifactMismatchError, match=said):
            check_same_units(build("llama"), kind(config))


def test_a_set_of_another_model_is_refused():
    model = build("llama")
    tensors = {"model.layers.0.mlp.down_proj": torch.ones(9, dtype=torch.bool)}
    wrong = NeuronSet(tensors=tensors, model_id=model_id(model))
    with pytest.raises(ArtifactMismatchError, match=r"has \(9,\) units in the set and \(24,\)"):
        check_neurons(model, wrong)
    gone = NeuronSet(tensors={"h.0": tensors.popitem()[1]}, model_id=model_id(model))
    with pytest.raises(ArtifactMismatchError, match=r"has no units at 'h\.0'"):
        check_neurons(model, gone)


def test_a_model_without_mlp_has_no_neurons():
    model = build("llama")
    for layer in model.model.layers:
        layer.mlp = nn.Identity()
    with pytest.raises(UserError, match="no neuron of LlamaForCausalLM is known"):
        unit_sites(model)
