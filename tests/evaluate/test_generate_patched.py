"""Patching in generation: its two identities, batches, hooks, and what cannot be patched."""

import copy
import sys
from pathlib import Path

import pytest
import torch

from conftest import CONFIGS, build, examples, make_batches
from safetypin.artifacts import ArtifactMismatchError, NeuronSet, Prompt, PromptSet, UserError
from safetypin.evaluate import generate, generate_patched, patchable, patched, perplexity
from safetypin.intervene import ablated
from safetypin.models import model_id, unit_sites
from safetypin.predict import Reading, read_features
from safetypin.scores import unit_means
from test_contracts import assert_same_state, state_of

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))
from tiny import NOUNS, make_tokenizer

DENSE = sorted(CONFIGS.keys() - {"mixtral", "qwen2_moe", "qwen3_moe"})
PROMPTS = [f"please paint the {' '.join(NOUNS[i : i + 1 + i % 3])}" for i in range(5)]


@pytest.fixture(scope="module")
def tokenizer():
    made = make_tokenizer()
    made.chat_template = None
    return made


def pair(family, site):
    """Return two models that differ only in what makes their neurons, or in their whole MLPs."""
    model = build(family)
    config = model.config
    model.resize_token_embeddings(100, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(std=0.5)
    config.eos_token_id = model.generation_config.eos_token_id = None
    other = copy.deepcopy(model)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            writes = any(word in name for word in ("down_proj", "mlp.c_proj", "4h_to_h"))
            if ".mlp." in name and parameter.ndim > 1 and (site == "residual" or not writes):
                parameter.normal_(std=0.6)
    return model, other


def units(model, site, fill):
    tensors = {
        name: torch.full(place.shape, fill, dtype=torch.bool)
        for name, place in unit_sites(model, site).items()
    }
    return NeuronSet(tensors=tensors, model_id=model_id(model), site=site)


def texts(responses):
    return [(response.text, response.num_tokens) for response in responses]


@pytest.mark.parametrize("site", ["neuron", "residual"])
@pytest.mark.parametrize("family", DENSE)
def test_nothing_patched_is_the_model_and_everything_patched_is_the_source(family, site, tokenizer):
    model, source = pair(family, site)
    how = {"max_new_tokens": 6, "plain": True}
    own = texts(generate(model, tokenizer, PROMPTS, **how))
    theirs = texts(generate(source, tokenizer, PROMPTS, **how))
    assert own != theirs
    nothing, all_ = (units(model, site, fill) for fill in (False, True))
    assert texts(generate_patched(model, source, tokenizer, PROMPTS, nothing, **how)) == own
    assert texts(generate_patched(model, source, tokenizer, PROMPTS, all_, **how)) == theirs


@pytest.mark.parametrize("site", ["neuron", "residual"])
@pytest.mark.parametrize("family", DENSE)
def test_a_patched_pass_over_a_text_lies_at_both_models_ends(family, site, tokenizer):
    model, source = pair(family, site)
    ids = tokenizer(PROMPTS[2], return_tensors="pt")["input_ids"]
    before = state_of(model)
    nothing, all_ = (units(model, site, fill) for fill in (False, True))
    with torch.inference_mode():
        own, theirs = model(ids).logits, source(input_ids=ids).logits
        with patched(model, source, nothing):
            assert torch.equal(model(ids).logits, own)
        with patched(model, source, all_):
            # also by name, and again with another text
            assert model(input_ids=ids).logits == pytest.approx(theirs, abs=1e-5)
            shorter = model(ids[:, :3]).logits
        assert shorter == pytest.approx(source(ids[:, :3]).logits, abs=1e-5)
        assert torch.equal(model(ids).logits, own)
    assert_same_state(state_of(model), before)


def test_a_patched_perplexity_is_that_of_the_source_and_nothing_stays_after_an_error(tokenizer):
    model, source = pair("llama", "residual")
    texts_ = PromptSet(prompts=(Prompt(text="", response=PROMPTS[1]),), name="texts")
    all_ = units(model, "residual", True)
    own, theirs = (perplexity(one, tokenizer, texts_).value for one in (model, source))
    with patched(model, source, all_):
        assert perplexity(model, tokenizer, texts_).value == pytest.approx(theirs, rel=1e-5)
    with pytest.raises(KeyError), patched(model, source, all_):
        raise KeyError
    assert perplexity(model, tokenizer, texts_).value == own != theirs


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_a_mixture_of_experts_is_patched_at_its_output_and_refused_inside(family, tokenizer):
    model, source = pair(family, "residual")
    how = {"max_new_tokens": 4, "plain": True}
    theirs = texts(generate(source, tokenizer, PROMPTS, **how))
    all_ = units(model, "residual", True)
    assert texts(generate_patched(model, source, tokenizer, PROMPTS, all_, **how)) == theirs
    with pytest.raises(UserError, match="they cannot be patched; use a set at site residual"):
        generate_patched(model, source, tokenizer, PROMPTS, units(model, "neuron", True), **how)
    with (
        pytest.raises(UserError, match="are of experts and cannot be ablated"),
        ablated(model, units(model, "neuron", True)),
    ):
        pass


def some(model, share=0.4):
    generator = torch.Generator().manual_seed(0)
    whole = units(model, "neuron", True)
    drawn = {n: torch.rand(m.shape, generator=generator) < share for n, m in whole.tensors.items()}
    return NeuronSet(tensors=drawn, model_id=whole.model_id)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gemma3"])
def test_batches_give_the_answers_that_single_prompts_give(family, tokenizer):
    model, source = pair(family, "neuron")
    chosen, how = some(model), {"max_new_tokens": 6, "plain": True}
    alone = [
        texts(generate_patched(model, source, tokenizer, [prompt], chosen, **how))[0]
        for prompt in PROMPTS
    ]
    for batch_size in (2, 5):
        found = generate_patched(
            model, source, tokenizer, PROMPTS, chosen, batch_size=batch_size, **how
        )
        assert texts(found) == alone


def test_the_source_reads_with_a_cache_of_its_own():
    """If both shared a cache, the second model would read every token twice."""
    model, source = pair("llama", "neuron")
    lengths = {"model": [], "source": []}
    for name, one in (("model", model), ("source", source)):
        attention = one.model.layers[0].self_attn

        def note(module, args, kwargs, output, name=name):
            lengths[name].append(kwargs["past_key_values"].get_seq_length())

        attention.register_forward_hook(note, with_kwargs=True)
    made = make_tokenizer()
    generate_patched(model, source, made, [PROMPTS[0]], some(model), max_new_tokens=3, plain=True)
    assert lengths["model"] == lengths["source"]
    assert lengths["model"] == list(range(lengths["model"][0], lengths["model"][0] + 3))


def test_hooks_of_the_caller_stay_and_nothing_else_does(tokenizer):
    model, source = pair("llama", "neuron")
    seen = []
    for one in (model, source):
        one.model.layers[0].mlp.register_forward_hook(lambda *_: seen.append(1))
        one.train()
    before = [state_of(one) for one in (model, source)]
    how = {"max_new_tokens": 2, "plain": True}
    generate_patched(model, source, tokenizer, PROMPTS[:1], some(model), **how)
    assert len(seen) == 4
    with pytest.raises(KeyboardInterrupt):
        generate_patched(model, source, tokenizer, PROMPTS, some(model), on_batch=interrupt, **how)
    for one, state in zip((model, source), before, strict=True):
        assert_same_state(state_of(one), state)


def interrupt(*_):
    raise KeyboardInterrupt


def test_an_exception_inside_the_source_is_not_swallowed_and_leaves_nothing(tokenizer):
    model, source = pair("llama", "neuron")

    def fail(*_):
        raise RuntimeError("in the guided model")

    source.model.layers[1].mlp.register_forward_hook(fail)
    before = [state_of(one) for one in (model, source)]
    with pytest.raises(RuntimeError, match="in the guided model"):
        generate_patched(
            model, source, tokenizer, PROMPTS, some(model), max_new_tokens=2, plain=True
        )
    for one, state in zip((model, source), before, strict=True):
        assert_same_state(state_of(one), state)


def test_known_answers_are_not_asked_again(tokenizer):
    model, source = pair("llama", "neuron")
    how = {"max_new_tokens": 3, "plain": True}
    known = dict(enumerate(generate_patched(model, source, tokenizer, PROMPTS, some(model), **how)))
    batches = []
    generate_patched(
        model, source, tokenizer, PROMPTS, some(model), done=known,
        on_batch=lambda *batch: batches.append(batch), **how,
    )  # fmt: skip
    assert batches == []


def test_a_set_or_a_source_of_another_shape_is_refused(tokenizer):
    model, source = pair("llama", "neuron")
    with pytest.raises(ArtifactMismatchError, match="has no units at"):
        generate_patched(model, source, tokenizer, PROMPTS, units(build("gpt2"), "neuron", True))
    with pytest.raises(ArtifactMismatchError, match="the two models differ"):
        generate_patched(model, build("gpt2"), tokenizer, PROMPTS, some(model))
    with pytest.raises(UserError, match="units at site 'query' are no activations"):
        generate_patched(model, source, tokenizer, PROMPTS, units(model, "query", True))


def test_ablated_units_are_silent_in_the_block_and_back_after_it(tokenizer):
    model, _ = pair("llama", "neuron")
    ids = torch.tensor([[5, 6, 7]])
    name, place = next(iter(unit_sites(model).items()))
    members = {n: torch.zeros_like(m) for n, m in some(model).tensors.items()}
    members[name][3] = True
    one = NeuronSet(tensors=members, model_id=model_id(model))
    seen = []
    place.module.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        before = model(ids).logits
        weight = place.module.weight.clone()
        place.module.weight[:, 3] = 0
        without = model(ids).logits
        place.module.weight.copy_(weight)
        with ablated(model, one):
            torch.testing.assert_close(model(ids).logits, without)
        assert torch.equal(model(ids).logits, before)
        mean = {name: torch.full((24,), 7.0)}
        with ablated(model, one, values=mean):
            assert not torch.allclose(model(ids).logits, without)
        state = state_of(model)
        with pytest.raises(KeyboardInterrupt), ablated(model, one):
            raise KeyboardInterrupt
        assert_same_state(state_of(model), state)


def test_query_coordinates_are_refused_in_the_same_words_by_all_who_read_activations():
    model, how = build("llama"), Reading(site="query")
    neurons = units(model, "query", True)
    said = []
    for use in (
        lambda: ablated(model, neurons).__enter__(),
        lambda: patchable(model, neurons),
        lambda: unit_means(model, make_batches(examples(2)), site="query"),
        lambda: read_features(model, [[3, 4]], how, lambda *_: None, bos=None),
    ):
        with pytest.raises(UserError) as error:
            use()
        said.append(str(error.value))
    assert set(said) == {
        "units at site 'query' are no activations that can be read or replaced; use a set at site "
        "neuron or residual (safetypin contrast --site). Such a set can be trained alone: "
        "safetypin tune --protect sn-tune"
    }
