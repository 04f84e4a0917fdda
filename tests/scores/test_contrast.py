"""The contrast of two models: by hand, against a slow reference, and in every bad case."""

import dataclasses

import pytest
import torch
from peft import IA3Config, LoraConfig

from conftest import CONFIGS, adapted, build, examples, make_batches
from safetypin.artifacts import ArtifactMismatchError, DamagedArtifactError, UserError
from safetypin.models import base_fingerprint, model_id, unit_sites
from safetypin.scores import _contrast, contrast, contrast_parts, record
from safetypin.select import top_neurons
from test_contracts import assert_same_state, state_of

FAMILIES = ("llama", "gemma2", "phi3", "gpt2", "gpt_neox", "mixtral", "qwen2_moe")


def pair(family="llama", dtype=torch.float32):
    """Return a model and another of the same shape with other weights in its MLPs."""
    aligned, other = build(family, dtype), build(family, dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.05 * noise.to(dtype))
    return aligned, other


def activations(model, batch, site):
    """Return every unit's activation at every token, experts that got none at zero, in float64."""
    found = {}
    handles = []
    for name, place in unit_sites(model, site).items():
        if len(place.shape) == 2:
            continue
        if place.parameter:
            hook = lambda m, args, name=name: found.update({name: args[0].double()})  # noqa: E731
            handles.append(place.module.register_forward_pre_hook(hook))
        else:
            hook = lambda m, a, out, name=name: found.update({name: out.double()})  # noqa: E731
            handles.append(place.module.register_forward_hook(hook))
    with torch.no_grad():
        shape = batch.input_ids.shape
        model(batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids)
    for handle in handles:
        handle.remove()
    return {name: rows.view(*shape, -1) for name, rows in found.items()}


def reference(model, other, batch, site):
    """RMS of the difference and of the other, by a loop that keeps everything."""
    mine, theirs = (activations(one, batch, site) for one in (model, other))
    return {
        name: (
            (rows - theirs[name])[batch.counted].square().mean(0).sqrt(),
            theirs[name][batch.counted].square().mean(0).sqrt(),
        )
        for name, rows in mine.items()
    }


@pytest.mark.parametrize("site", ["neuron", "residual"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_is_the_root_mean_square_difference_on_the_same_tokens(family, site):
    aligned, other = pair(family)
    batch = make_batches(examples(5))[0]
    plain = contrast(aligned, other, [batch], site=site)
    free = contrast(aligned, other, [batch], site=site, scale="free")
    for name, (difference, rms) in reference(aligned, other, batch, site).items():
        torch.testing.assert_close(plain.tensors[name].double(), difference, rtol=2e-5, atol=1e-7)
        floor = 1e-3 * rms.square().mean().sqrt()
        expected = difference / rms.clamp(min=float(floor))
        torch.testing.assert_close(free.tensors[name].double(), expected, rtol=2e-4, atol=1e-6)
    assert plain.num_tokens == int(batch.counted.sum())
    assert (plain.model_id, plain.reference_id) == (model_id(aligned), model_id(other))


def test_a_token_that_only_one_model_sends_to_an_expert_counts_as_zero_in_the_other():
    aligned, other = pair("mixtral")
    with torch.no_grad():  # tokens go to experts 0 and 1 here, to 2 and 3 there
        for layer, there in zip(aligned.model.layers, other.model.layers, strict=True):
            layer.mlp.gate.weight.copy_(torch.tensor([2.0, 1.0, -1.0, -2.0])[:, None] * 1e-9)
            there.mlp.gate.weight.copy_(-layer.mlp.gate.weight)
    batch = make_batches(examples(3))[0]
    forced = {0: (0, 1), 1: (2, 3)}

    def router(which):
        def hook(module, args, output):
            logits, scores, _ = output
            index = torch.tensor(forced[which]).expand(len(logits), 2)
            return logits, scores, index

        return hook

    for which, model in enumerate((aligned, other)):
        for layer in model.model.layers:
            layer.mlp.gate.register_forward_hook(router(which))
    scores = contrast(aligned, other, [batch])
    back = contrast(other, aligned, [batch])
    for name, tensor in scores.tensors.items():
        assert (tensor.sum(dim=1) > 0).all()
        torch.testing.assert_close(tensor, back.tensors[name])


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2_moe"])
def test_scores_do_not_depend_on_batch_size_padding_or_order(family, monkeypatch):
    aligned, other = pair(family)
    rows = examples(5)
    monkeypatch.setitem(_contrast.MAX_TOKENS, "cpu", 1)
    expected = contrast(aligned, other, make_batches(rows, batch_size=1)).tensors
    monkeypatch.setitem(_contrast.MAX_TOKENS, "cpu", 10_000)
    for batch_size, side, order in ((2, "left", (2, 0, 4, 1, 3)), (8, "right", (4, 3, 2, 1, 0))):
        batches = make_batches([rows[i] for i in order], batch_size, side)
        for name, tensor in contrast(aligned, other, batches).tensors.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


def test_two_forward_passes_are_all_that_is_run():
    aligned, other = pair()
    calls = []
    for name, model in (("aligned", aligned), ("other", other)):
        model.register_forward_hook(lambda *_, name=name: calls.append(name))
    contrast(aligned, other, make_batches(examples(5)))
    assert sorted(calls) == ["aligned", "other"]


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("weighting", ["token", "example"])
@pytest.mark.parametrize("scale", ["plain", "free"])
def test_parts_are_read_once_and_give_the_scores_of_all(family, weighting, scale):
    aligned, other = pair(family)
    rows, how = examples(7), {"weighting": weighting, "scale": scale}
    parts = {"a": make_batches(rows[:5], batch_size=2), "b": make_batches(rows[5:])}
    expected = {
        "whole": contrast(aligned, other, make_batches(rows), **how),
        **{name: contrast(aligned, other, part, **how) for name, part in parts.items()},
    }
    calls, told = [], []
    for name, model in (("aligned", aligned), ("other", other)):
        model.register_forward_pre_hook(
            lambda _, args, name=name: calls.extend([name] * len(args[0]))
        )
    found = contrast_parts(aligned, dict.fromkeys(parts, other), parts, progress=told.append, **how)
    assert sorted(calls) == ["aligned"] * 7 + ["other"] * 7
    assert told == sorted(told)
    assert told[-1] == 7
    assert list(found) == ["whole", "a", "b"]
    for name, scores in found.items():
        assert dataclasses.replace(scores, tensors={}) == dataclasses.replace(
            expected[name], tensors={}
        )
        for place, tensor in scores.tensors.items():
            torch.testing.assert_close(tensor, expected[name].tensors[place], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("site", ["neuron", "residual"])
def test_one_after_the_other_gives_the_same_scores_as_both_at_once(family, site, tmp_path):
    aligned, other = pair(family)
    batches = make_batches(examples(5), batch_size=2)
    expected = contrast(aligned, other, batches, site=site, scale="free")
    recorded = record(other, batches, tmp_path, site=site)
    found = contrast(aligned, recorded, batches, site=site, scale="free")
    assert found.reference_id == expected.reference_id
    for name, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[name], tensor)


def test_what_was_recorded_on_other_tokens_or_at_another_site_is_refused(tmp_path):
    aligned, other = pair()
    recorded = record(other, make_batches(examples(3)), tmp_path)
    with pytest.raises(ArtifactMismatchError, match="recorded on other tokens"):
        contrast(aligned, recorded, make_batches(examples(3, seed=5)))
    with pytest.raises(ArtifactMismatchError, match="recorded on fewer tokens"):
        contrast(aligned, recorded, [*make_batches(examples(3)), *make_batches(examples(3))])
    with pytest.raises(ArtifactMismatchError, match="at site neuron, not at residual"):
        contrast(aligned, recorded, make_batches(examples(3)), site="residual")
    elsewhere = record(build("gpt2"), make_batches(examples(1)), tmp_path / "other")
    with pytest.raises(ArtifactMismatchError, match="the two models differ at"):
        contrast(build("gemma2"), elsewhere, [])
    path = next(tmp_path.glob("pass-*"))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DamagedArtifactError, match="cannot be read"):
        contrast(aligned, recorded, make_batches(examples(3)))


@pytest.mark.parametrize("config", [
    LoraConfig(r=2, target_modules=["up_proj", "down_proj", "q_proj"], init_lora_weights=False),
    IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"]),
])  # fmt: skip
def test_an_adapter_on_and_off_is_a_pair_with_one_set_of_weights(config):
    batches = make_batches(examples(5))
    torch.manual_seed(3)
    both = adapted(build("llama"), config)
    with torch.no_grad():  # peft begins IA3 with ones and noise
        for name, parameter in both.named_parameters():
            if "ia3" in name:
                parameter.uniform_(0.5, 2.0)
    found = contrast(both, None, batches)
    assert found.reference_id.endswith(base_fingerprint(both))
    alone = contrast(both, build("llama"), batches)
    for name, tensor in alone.tensors.items():
        assert (tensor > 0).any()
        torch.testing.assert_close(found.tensors[name], tensor)
    assert found.reference_id.rpartition("#")[2] == alone.reference_id.rpartition("#")[2]


def test_ia3_shows_the_scaled_activation():
    config = IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"])
    both = adapted(build("llama"), config)
    with torch.no_grad():
        for name, parameter in both.named_parameters():
            if "ia3" in name:
                parameter.fill_(3.0 if "layers.1." in name else 1.0)
    scores = contrast(both, None, make_batches(examples(3)), scale="free")
    first, last = scores.tensors.values()
    assert torch.equal(first, torch.zeros_like(first))
    torch.testing.assert_close(last, torch.full_like(last, 2.0))  # |3 h - h| / |h|


def test_a_model_without_adapter_needs_a_reference():
    with pytest.raises(UserError, match="no adapter that could be turned off; give a second model"):
        contrast(build("llama"), None, make_batches(examples(1)))


def test_a_layer_that_is_ten_times_larger_wins_only_on_the_plain_scale():
    aligned, other = pair()
    batches = make_batches(examples(5))
    for model in (aligned, other):
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight.mul_(100.0)
    plain, free = (
        top_neurons(contrast(aligned, other, batches, scale=scale), 0.25)
        for scale in ("plain", "free")
    )
    last = "model.layers.1.mlp.down_proj"
    assert plain.tensors[last].sum() == plain.num_selected == 12
    assert 0 < free.tensors[last].sum() < 12


def test_a_repeated_long_example_counts_once_where_examples_are_weighted():
    aligned, other = pair()
    long, short = ([3, 4], [5, 6, 7, 8] * 5), ([9, 10], [11])
    by_token, by_example = (
        contrast(aligned, other, make_batches([long, short]), weighting=weighting).tensors
        for weighting in ("token", "example")
    )
    single = [contrast(aligned, other, make_batches([one])).tensors for one in (long, short)]
    for name, tensor in by_example.items():
        mean = (single[0][name] ** 2 + single[1][name] ** 2) / 2
        torch.testing.assert_close(tensor, mean.sqrt(), rtol=1e-5, atol=1e-7)
        tokens = (20 * single[0][name] ** 2 + single[1][name] ** 2) / 21
        torch.testing.assert_close(by_token[name], tokens.sqrt(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_neither_model_is_changed_and_hooks_of_the_caller_stay(family):
    aligned, other = pair(family)
    aligned.train()
    for model in (aligned, other):
        model.register_forward_hook(lambda *_: None)
    before = [state_of(model) for model in (aligned, other)]
    contrast(aligned, other, make_batches(examples(3)))
    for model, state in zip((aligned, other), before, strict=True):
        assert_same_state(state_of(model), state)


def test_an_exception_leaves_both_models_as_they_were():
    aligned, other = pair("mixtral")
    before = [state_of(model) for model in (aligned, other)]

    def interrupt(num_done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contrast(aligned, other, make_batches(examples(3)), progress=interrupt)
    for model, state in zip((aligned, other), before, strict=True):
        assert_same_state(state_of(model), state)


def test_a_difference_whose_square_overflows_float16_is_exact():
    """300 squared is 90,000; float16 ends at 65,504."""
    models = [build("llama", torch.float16) for _ in range(2)]
    for model, value in zip(models, (300.0, 0.0), strict=True):
        place = next(iter(unit_sites(model).values()))

        def set_unit(module, args, value=value):
            changed = args[0].clone()
            changed[..., 4] = value
            return (changed,)

        place.module.register_forward_pre_hook(set_unit)
    scores = contrast(*models, make_batches(examples(3)))
    assert scores.tensors["model.layers.0.mlp.down_proj"][4] == 300.0


def test_activations_that_overflow_float16_are_an_error_that_names_the_layer():
    aligned, other = pair(dtype=torch.float16)
    with torch.no_grad():
        aligned.model.layers[1].mlp.up_proj.weight.mul_(6e4)
        aligned.model.layers[1].mlp.gate_proj.weight.mul_(6e4)
    with pytest.raises(
        UserError, match=r"layers\.1\.mlp\.down_proj are not finite .*overflow float16"
    ):
        contrast(aligned, other, make_batches(examples(3)))


def test_bad_options_and_nothing_to_count_are_errors():
    aligned, other = pair()
    batches = make_batches(examples(2))
    with pytest.raises(UserError, match="unknown scale 'z'; choose one of plain, free"):
        contrast(aligned, other, batches, scale="z")
    with pytest.raises(UserError, match="unknown weighting 'x'"):
        contrast(aligned, other, batches, weighting="x")
    with pytest.raises(UserError, match="unknown site 'query'"):
        contrast(aligned, other, batches, site="query")
    nothing = batches[0]._replace(counted=torch.zeros_like(batches[0].counted))
    with pytest.raises(UserError, match="no token is counted"):
        contrast(aligned, other, [nothing])
    with pytest.raises(UserError, match="no example to score on"):
        contrast(aligned, other, [])


def test_models_of_other_shape_are_refused_with_what_differs():
    for family in CONFIGS.keys() - {"llama"}:
        model = build(family)
        if {n: s.shape for n, s in unit_sites(model).items()} != {
            n: s.shape for n, s in unit_sites(build("llama")).items()
        }:
            with pytest.raises(ArtifactMismatchError, match="the two models differ"):
                contrast(build("llama"), model, make_batches(examples(1)))


def test_a_dead_layer_of_the_reference_is_an_error_only_where_it_is_divided_by():
    aligned, other = pair()
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.zero_()
    contrast(aligned, other, make_batches(examples(2)))
    with pytest.raises(UserError, match=r"reference's activations at model\.layers\.0.* all zero"):
        contrast(aligned, other, make_batches(examples(2)), scale="free")
