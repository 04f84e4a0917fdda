"""The whole small pipeline on a tiny random model of every family: nothing depends on its name."""

import copy

import pytest
import torch

import safetypin as sp
from conftest import CONFIGS, VARIANTS, build
from intervene.finetuning import DATA, SMALL, tokenizer
from safetypin.artifacts import Prompt, PromptSet
from safetypin.evaluate import attack, attack_rates, judge, make_attacks
from safetypin.intervene import heads_ablated
from safetypin.models import model_fingerprint
from safetypin.scores import probe_heads
from safetypin.select import random_heads, top_heads
from safetypin.subspaces import random_ranks

WORDS = "say how do I paint the old red door first sand it then wait".split()  # noqa: SIM905
HARMFUL = PromptSet(
    name="harmful",
    prompts=tuple(Prompt(text=f"say how {a} {b}", response="No") for a in WORDS for b in WORDS[:2]),
)
HARMLESS = PromptSet(
    name="harmless",
    prompts=tuple(
        Prompt(text=f"paint the {a} {b}", response="Sure , first sand")
        for a in WORDS
        for b in WORDS[:2]
    ),
)


@pytest.fixture(scope="module", params=sorted(CONFIGS | VARIANTS))
def subject(request):
    """A model, its tokenizer, and batches of both kinds of prompts."""
    made = tokenizer()
    sides = [sp.batches(prompts, made, batch_size=9) for prompts in (HARMFUL, HARMLESS)]
    return build(request.param), made, sides


@pytest.fixture(autouse=True)
def unchanged(subject):
    before = model_fingerprint(subject[0])
    yield
    assert model_fingerprint(subject[0]) == before


def answers(model, made):
    prompts = [prompt.text for prompt in list(HARMFUL)[:4]]
    return [r.text for r in sp.generate(model, made, prompts, max_new_tokens=6)]


def critical_of(model, sides):
    safety, utility = (sp.snip(model, side) for side in sides)
    return sp.top_fraction(safety, 0.05) - sp.top_fraction(utility, 0.05)


@pytest.mark.parametrize("score", ["snip", "wanda", "sparsegpt", "magnitude", "random"])
def test_score_select_prune_and_their_control(subject, score):
    model, made, sides = subject
    safety, utility = (sp.SCORERS[score](model, side) for side in sides)
    mask = sp.top_fraction(safety, 0.05) - sp.top_fraction(utility, 0.01)
    if score == "random" or score == "magnitude":  # one seed gives one set
        mask = sp.top_fraction(safety, 0.05)
    control = sp.matched_random(mask, model, seed=0)
    before = answers(model, made)
    for removed in (mask, control):
        with sp.pruned(model, removed):
            for name, members in removed.tensors.items():
                assert not model.get_parameter(name)[members].any()
            verdicts = sp.judge(sp.generate(model, made, ["say how"], max_new_tokens=4))
            assert len(verdicts) == 1
    assert answers(model, made) == before


def test_ranks_are_projected_out_and_back(subject):
    model, made, sides = subject
    ranks = [sp.actsvd(model, side) for side in sides]
    before = answers(model, made)
    for safety in (ranks[0], random_ranks(ranks[0], seed=0)):
        with sp.projected(model, safety, rank=2):
            for name, directions in safety.cut(2).directions.items():
                weight = model.get_parameter(name)
                weight = weight.T if name in safety.transposed else weight
                assert (directions.T @ weight).abs().max() < 1e-5
            changed = model_fingerprint(model)
        with sp.projected(model, safety, rank=2, utility=ranks[1], keep_utility=2):
            assert model_fingerprint(model) != changed
    assert answers(model, made) == before


def test_heads_are_probed_and_silenced(subject):
    model, made, sides = subject
    heads = top_heads(probe_heads(model, *sides, seed=0), 3, seed=0)
    before = answers(model, made)
    for silent in (heads, random_heads(heads, seed=1)):
        with heads_ablated(model, silent):
            assert len(answers(model, made)) == 4
    assert answers(model, made) == before


def test_attacks_are_judged(subject):
    model, made, _ = subject
    attacks = make_attacks(
        ["suffix", "decoding", "prefill"], suffixes=("then wait",), num_samples=2, prefill="Sure"
    )
    for how in attacks:
        rows = attack(model, made, list(HARMFUL)[:3], how, max_new_tokens=4)
        rates = attack_rates([judge(row) for row in rows])
        assert rates.mean.num_judged == 3 * how.num_variants


def test_two_models_are_contrasted_and_units_ablated(subject):
    model, made, sides = subject
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    for site in ("neuron", "residual"):
        scores = sp.contrast(model, other, sides[0], site=site)
        units = sp.top_neurons(scores, 0.1)
        assert units.num_selected > 0
    with sp.ablated(model, units):
        assert len(answers(model, made)) == 4


@pytest.mark.parametrize("protect", ["freeze", "lora"])
def test_a_model_is_tuned_under_protection(subject, protect):
    model, made, sides = subject
    mask = critical_of(model, sides)
    kind = sp.Freeze(mask) if protect == "freeze" else sp.Lora(targets=targets_of(model))
    tuned = sp.finetune(copy.deepcopy(model), made, DATA, protect=kind, training=SMALL)
    state = dict(tuned.named_parameters())
    if protect == "freeze":
        for name, members in mask.tensors.items():
            assert torch.equal(state[name][members], model.get_parameter(name)[members])
        groups = {"safety": mask, "random": sp.matched_random(mask, model, seed=0)}
        table = sp.drift(model, tuned, groups=groups)
        assert table is not None


def targets_of(model):
    """Return the module that reads attention's input, whatever the family calls it."""
    ends = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    known = ("q_proj", "qkv_proj", "c_attn", "query_key_value")
    return tuple(name for name in known if name in ends)
