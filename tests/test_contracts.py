"""What every scoring method promises."""

import copy

import pytest
import torch

from conftest import build, examples, make_batches
from safetypin.artifacts import UserError
from safetypin.models import block_weights, coverage, model_id
from safetypin.scores import SCORERS, _snip, _wanda, needs_reference
from safetypin.select import top_fraction

FAMILIES = ("llama", "gpt2", "mixtral")
NUM_COPIES = 512


def usable(name):
    """Return a scorer with a reference, where it compares with one."""
    if not needs_reference(name):
        return SCORERS[name]

    def score(model, *args, **options):
        other = copy.deepcopy(model)
        with torch.no_grad():
            for weight in block_weights(other).values():
                weight.weight.mul_(0.5)
        return SCORERS[name](model, *args, reference=other, **options)

    return score


each_scorer = pytest.mark.parametrize(
    "scorer", [usable(name) for name in SCORERS], ids=SCORERS.keys()
)
each_reader = pytest.mark.parametrize("name", ["snip", "sparsegpt", "wanda"])
each_family = pytest.mark.parametrize("family", FAMILIES)


def state_of(model):
    """Return everything about a model that a reader must not change."""
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": {
            n: p.grad if p.grad is None else p.grad.clone() for n, p in model.named_parameters()
        },
        "flags": [(p.requires_grad, p._version) for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [
            [list(hooks) for name, hooks in sorted(vars(module).items()) if name.endswith("_hooks")]
            for module in model.modules()
        ],
        "forwards": ["forward" in vars(module) for module in model.modules()],
        "config": model.config.to_dict() | {"experts": model.config._experts_implementation},
    }


def assert_same_state(after, before):
    for name in ("values", "grads"):
        assert after[name].keys() == before[name].keys()
        for key, value in before[name].items():
            assert after[name][key] is value or torch.equal(after[name][key], value), (name, key)
    for name in ("flags", "modes", "hooks", "forwards", "config"):
        assert after[name] == before[name], name


@each_scorer
@each_family
def test_scores_are_finite_not_negative_and_shaped_as_their_weights(scorer, family):
    model = build(family)
    scores = scorer(model, make_batches(examples()), prompts_id="p")
    assert scores.tensors.keys() == block_weights(model).keys()
    for name, tensor in scores.tensors.items():
        assert tensor.shape == model.get_parameter(name).shape
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad
        assert tensor.isfinite().all()
        assert (tensor >= 0).all()
        assert (tensor > 0).any()
    assert scores.model_id == model_id(model)
    assert scores.prompts_id == "p"
    assert scores.coverage == coverage(model).fraction
    assert scores.method in SCORERS


@each_scorer
@each_family
def test_the_same_call_gives_the_same_scores(scorer, family):
    model, batches = build(family), make_batches(examples())
    again = scorer(model, batches).tensors
    for name, tensor in scorer(model, batches).tensors.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, again[name]), "a score is the same each time it is asked for"


@each_scorer
@each_family
def test_scoring_leaves_the_model_exactly_as_it_was(scorer, family):
    model, batches = build(family), make_batches(examples())
    model.train()
    model.get_submodule(block_weights(model).popitem()[1].module_name).eval()
    next(model.parameters()).requires_grad_(False)
    model(batches[0].input_ids, labels=batches[0].input_ids).loss.backward()
    model.register_forward_hook(lambda *_: None)
    before = state_of(model)
    assert any(grad is not None for grad in before["grads"].values())
    scorer(model, batches)
    assert_same_state(state_of(model), before)


@each_scorer
def test_targets_choose_weights_by_role_or_name(scorer):
    model, batches = build("llama"), make_batches(examples(2))
    whole = scorer(model, batches).tensors
    some = scorer(model, batches, targets=("ffn_down", "*.0.self_attn.q_proj"))
    assert set(some.tensors) == {
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
    }
    for name, tensor in some.tensors.items():
        torch.testing.assert_close(tensor, whole[name])
    assert some.coverage < 1


@each_scorer
def test_a_mistyped_target_is_an_error_that_names_an_example(scorer):
    with pytest.raises(
        UserError, match=r"'\*upproj' matches no weight .* such as 'model\.layers\.0"
    ):
        scorer(build("llama"), make_batches(examples(1)), targets=("*upproj",))


@each_scorer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_get_float32_scores(scorer, dtype):
    batches = make_batches(examples())
    exact = scorer(build("llama"), batches).tensors
    for name, tensor in scorer(build("llama", dtype), batches).tensors.items():
        assert tensor.dtype == torch.float32
        similar = torch.corrcoef(torch.stack([tensor.flatten(), exact[name].flatten()]))[0, 1]
        assert similar > 0.99, name


@each_reader
@each_family
def test_what_is_summed_over_many_examples_of_a_bfloat16_model_is_not_rounded_to_it(name, family):
    model, one = build(family, torch.bfloat16), examples(1)
    expected = SCORERS[name](model, make_batches(one)).tensors
    # SNIP's mean of so many equal examples and Wanda's mean square are those of one; a bfloat16
    # sum, which has 8 bits, loses what is small beside it, and is off by some hundredths
    for key, tensor in SCORERS[name](model, make_batches(one * NUM_COPIES)).tensors.items():
        atol = 1e-6 * float(expected[key].max())
        torch.testing.assert_close(tensor, expected[key], rtol=1e-3, atol=atol)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to compare with the CPU")
@pytest.mark.parametrize("name", ["snip", "wanda"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
@each_family
def test_a_gpu_gives_the_scores_that_the_cpu_gives(name, family, dtype, rtol):
    batches = make_batches(examples())
    expected = SCORERS[name](build(family, dtype), batches).tensors
    for key, tensor in SCORERS[name](build(family, dtype).cuda(), batches).tensors.items():
        found, known = tensor.cpu(), expected[key]
        assert float((found - known).norm()) < rtol * float(known.norm()), key


@each_reader
@each_family
def test_progress_counts_examples(name, family):
    seen = []
    SCORERS[name](build(family), make_batches(examples(5), batch_size=2), progress=seen.append)
    assert seen == sorted(set(seen))
    assert seen[-1] == 5


@each_reader
@each_family
def test_an_interrupted_pass_leaves_the_model_exactly_as_it_was(name, family):
    model = build(family).train()
    before = state_of(model)

    def interrupt(num_done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SCORERS[name](model, make_batches(examples()), progress=interrupt)
    assert_same_state(state_of(model), before)

    last = block_weights(model).popitem()[1].module

    def fail(*_):
        raise RuntimeError("in the middle of the forward pass")

    handle = last.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        SCORERS[name](model, make_batches(examples()))
    handle.remove()
    assert_same_state(state_of(model), before)


@pytest.mark.parametrize("name", ["snip", "wanda"])
@each_family
def test_scores_do_not_depend_on_batch_size_padding_or_order(name, family, monkeypatch):
    model, rows = build(family), examples(5)
    limit = {"snip": _snip, "wanda": _wanda}[name].MAX_TOKENS
    monkeypatch.setitem(limit, "cpu", 1)  # every example by itself
    expected = SCORERS[name](model, make_batches(rows, batch_size=1)).tensors
    monkeypatch.setitem(limit, "cpu", 10_000)  # a batch is one pass, as on a GPU
    for batch_size, side, order in (
        (1, "left", (4, 3, 2, 1, 0)),
        (2, "left", (2, 0, 4, 1, 3)),
        (2, "right", (0, 1, 2, 3, 4)),
        (8, "left", (0, 1, 2, 3, 4)),
        (8, "right", (3, 4, 0, 2, 1)),
    ):
        batches = make_batches([rows[i] for i in order], batch_size, side)
        for key, tensor in SCORERS[name](model, batches).tensors.items():
            # products of several examples in one pass round a little differently
            atol = 1e-6 * float(expected[key].max())
            torch.testing.assert_close(tensor, expected[key], rtol=1e-5, atol=atol)


@each_reader
def test_the_mode_of_the_model_and_of_the_caller_makes_no_difference(name):
    batches = make_batches(examples(2))
    expected = SCORERS[name](build("llama"), batches).tensors
    model = build("llama")
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    model.activation_checkpointing_enable()
    with torch.no_grad():
        in_no_grad = SCORERS[name](model, batches).tensors
    with torch.inference_mode():
        in_inference_mode = SCORERS[name](model, batches).tensors
    for key, tensor in expected.items():
        assert torch.equal(in_no_grad[key], tensor)
        assert torch.equal(in_inference_mode[key], tensor)


@each_reader
def test_no_example_is_an_error(name):
    with pytest.raises(UserError, match="no example to score on"):
        SCORERS[name](build("llama"), [])


@each_reader
def test_an_example_of_padding_alone_is_an_error(name):
    batch = make_batches(examples(2))[0]
    batch.attention_mask[1] = 0
    with pytest.raises(UserError, match="example 1 has no token"):
        SCORERS[name](build("llama"), [batch])


@each_reader
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_activations_that_are_not_finite_name_the_layer(name, family):
    model = build(family)
    with torch.no_grad():
        model.model.layers[1].post_attention_layernorm.weight[3] = float("nan")
    first = "gate_proj.weight" if family == "llama" else "experts.gate_up_proj"
    with pytest.raises(
        UserError, match=rf"inputs of model\.layers\.1\.mlp\.{first} are not finite"
    ):
        SCORERS[name](model, make_batches(examples(1)))


@each_reader
def test_experts_without_a_token_have_score_zero_and_are_reported(name, caplog):
    model = build("mixtral")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight[2:] = 0  # logits of 0 lose against two of opposite sign ...
            layer.mlp.gate.weight[0] = 5 * layer.mlp.gate.weight[0]
    one = make_batches(examples(1))  # ... and one short example cannot use all experts
    scores = SCORERS[name](model, one).tensors
    idle = sum(
        int((tensor.flatten(1).sum(dim=1) == 0).sum())
        for key, tensor in scores.items()
        if tensor.ndim == 3
    )
    assert idle > 0
    assert f"{idle} expert matrices received no" in caplog.text


@each_scorer
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_row_is_what_goes_into_one_output_however_it_is_stored(scorer, family):
    model = build(family)
    mask = top_fraction(scorer(model, make_batches(examples())), 0.25, group="row")
    for name, weight in block_weights(model).items():
        inputs = 0 if weight.layout == "conv1d" else 1
        assert set(mask.tensors[name].sum(dim=inputs).tolist()) == {round(0.25 * weight.d_in)}
