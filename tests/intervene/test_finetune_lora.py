"""LoRA and its masked modes: what the adapters do to the effective weights."""

import dataclasses

import pytest
import torch
from peft import PeftModel
from torch.nn import functional

from conftest import build, examples, make_batches
from intervene.finetuning import (
    DATA,
    OPTIMIZERS,
    SMALL,
    WAYS,
    assert_kept_inside,
    bits,
    columns_of,
    mask_of,
    state_of,
    stop_at,
    tokenizer,
)
from safetypin.artifacts import UserError, WeightMask
from safetypin.intervene import Lora, MaskedLora, finetune, readable_inputs
from safetypin.intervene.protect._entry import EntryLinear
from safetypin.intervene.protect._masked_lora import covering_columns
from safetypin.models import block_weights

Q = "model.layers.0.self_attn.q_proj.weight"
UP = "model.layers.0.mlp.up_proj.weight"
ALL = ("attn_*", "ffn_*")
FAMILIES = {
    "llama": ALL,
    "gpt2": ALL,
    "phi3": ALL,
    "gpt_neox": ALL,
    "mixtral": ("q_proj", "v_proj"),
}
each_family = pytest.mark.parametrize("family", FAMILIES)


def tuned(model, protect, out=None, on_step=None, **options):
    training = dataclasses.replace(SMALL, **options)
    return finetune(
        model, tokenizer(), DATA, protect=protect, training=training, out=out, on_step=on_step
    )


def adapted_names(model):
    base = model.get_base_model()
    return [name for name, module in base.named_modules() if hasattr(module, "lora_A")]


def assert_trained_outside(model, before, mask, names):
    for name in names:
        weight = f"{name}.weight"
        moved = model.get_parameter(weight).detach() != before[weight]
        assert moved[~mask.tensors[weight]].float().mean() > 0.9, name


def product(layer):
    """Return s B A in the layout of the weight."""
    change = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    change = change * layer.scaling["default"]
    return change.T if layer.fan_in_fan_out else change


# --- plain


@each_family
def test_lora_trains_adapters_only(family):
    model = build(family)
    before = state_of(model)
    given = tuned(model, Lora(targets=FAMILIES[family]))
    assert isinstance(given, PeftModel)
    base = given.get_base_model()
    assert base is model
    for name, value in base.state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(value, before[name.replace(".base_layer", "")])
    merged = given.merge_and_unload()
    changed = [n for n, v in merged.state_dict().items() if not torch.equal(v, before[n])]
    assert changed
    assert all("weight" in name for name in changed)


def test_the_adapters_are_as_asked():
    given = tuned(
        build("llama"), Lora(r=4, alpha=12.0, dropout=0.1, targets=("o_proj",)), max_steps=1
    )
    layer = given.get_base_model().model.layers[1].self_attn.o_proj
    assert layer.lora_A["default"].weight.shape == (4, 16)
    assert layer.scaling["default"] == 3
    assert layer.lora_dropout["default"].p == 0.1
    assert len(adapted_names(given)) == 2


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (("q_proj", "v_proj"), 4),
        (("layers.1.mlp.up_proj",), 1),
        (("attn_q",), 2),
        (("ffn_*", "o_proj"), 8),
        (("*.0.self_attn.k_proj",), 1),
    ],
)
def test_targets_are_names_roles_or_patterns(targets, count):
    given = tuned(build("llama"), Lora(targets=targets), max_steps=1)
    assert len(adapted_names(given)) == count


def test_the_base_mode_is_plain_lora():
    plain = tuned(build("llama"), Lora())
    model = build("llama")
    based = tuned(model, MaskedLora(mask_of(model), "base"))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, based.state_dict()[name])


# --- entry


@each_family
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_entry_leaves_every_masked_weight_as_it_was_bit_for_bit(family, precision):
    model = build(family)
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[:5] = -0.0
    before, mask = state_of(model), mask_of(model)
    given = tuned(model, MaskedLora(mask, targets=FAMILIES[family]), precision=precision)
    names = adapted_names(given)
    merged = given.merge_and_unload()
    assert_kept_inside(merged, before, mask)
    assert_trained_outside(merged, before, mask, names)


@each_family
def test_entry_is_the_product_outside_the_mask_exactly(family):
    model = build(family)
    before, mask = state_of(model), mask_of(model)
    given = tuned(model, MaskedLora(mask, targets=FAMILIES[family]))
    base = given.get_base_model()
    expected = {}
    for name in adapted_names(given):
        layer = base.get_submodule(name)
        change = product(layer).masked_fill(mask.tensors[f"{name}.weight"], 0)
        assert torch.equal(layer.get_delta_weight("default"), change)
        expected[f"{name}.weight"] = before[f"{name}.weight"] + change
    merged = given.merge_and_unload()
    for name, weight in expected.items():
        assert torch.equal(merged.get_parameter(name), weight), name


@each_family
def test_entry_computes_before_merging_what_it_computes_after(family):
    model = build(family)
    given = tuned(model, MaskedLora(mask_of(model), targets=FAMILIES[family]))
    (batch,) = make_batches(examples())
    with torch.no_grad():
        adapted = given(input_ids=batch.input_ids).logits
        with given.disable_adapter():
            plain = given(input_ids=batch.input_ids).logits
        merged = given.merge_and_unload()(batch.input_ids).logits
    torch.testing.assert_close(adapted, merged)
    assert not torch.allclose(adapted, plain)
    torch.testing.assert_close(plain, build(family)(batch.input_ids).logits)


def test_the_gradient_of_entry_is_that_of_the_masked_product():
    model = build("llama")
    mask = mask_of(model)
    given = tuned(model, MaskedLora(mask, dropout=0.0), max_steps=2)
    layer = given.get_base_model().get_submodule(Q.removesuffix(".weight"))
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    layer(x).square().sum().backward()
    found = a.grad.clone(), b.grad.clone()
    frozen, kept = layer.base_layer.weight, ~mask.tensors[Q]
    weight = frozen + kept * (layer.scaling["default"] * b @ a)
    expected = torch.autograd.grad((x @ weight.T).square().sum(), (a, b))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_entry_with_an_empty_mask_in_a_matrix_is_plain_lora_there():
    model, other = build("llama"), build("llama")
    mask = mask_of(model, ["model.layers.1.self_attn.q_proj.weight"])
    given = tuned(model, MaskedLora(mask, dropout=0.0), max_steps=1)
    plain = tuned(other, Lora(dropout=0.0), max_steps=1)
    masked = [m for m in given.get_base_model().modules() if isinstance(m, EntryLinear)]
    assert sum(layer.masked is not None for layer in masked) == 1
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    name = Q.removesuffix(".weight")
    ours, theirs = (m.get_base_model().get_submodule(name) for m in (given, plain))
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(x), theirs(x))


def test_the_dropout_of_entry_takes_input_features_away_and_keeps_the_mean():
    model = build("llama")
    mask = mask_of(model)
    given = tuned(model, MaskedLora(mask, dropout=0.5), max_steps=3)
    layer = given.get_base_model().get_submodule(Q.removesuffix(".weight"))
    frozen, change = layer.base_layer.weight, layer.get_delta_weight("default")
    eye = torch.eye(16)
    layer.train()
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = torch.stack([layer(eye).T - frozen for _ in range(400)])
    for sample in drawn[:20]:
        dropped = (sample.abs() < 1e-6).all(dim=0)
        assert 0 < int(dropped.sum()) < 16
        torch.testing.assert_close(sample[:, ~dropped], 2 * change[:, ~dropped])
    torch.testing.assert_close(
        drawn.mean(0), change, atol=0.15 * float(change.detach().abs().max()), rtol=0
    )


def test_entry_on_a_half_precision_base_is_exact_too():
    model = build("llama", torch.bfloat16)
    before, mask = state_of(model), mask_of(model)
    given = tuned(model, MaskedLora(mask, targets=ALL))
    assert given.get_base_model().get_parameter(
        UP.replace("weight", "base_layer.weight")
    ).dtype == (torch.bfloat16)
    merged = given.merge_and_unload()
    assert merged.dtype == torch.bfloat16
    assert_kept_inside(merged, before, mask)
    assert not torch.equal(merged.get_parameter(UP), before[UP])


def test_unmerging_gives_the_masked_weights_back_too():
    model = build("llama")
    before, mask = state_of(model), mask_of(model)
    given = tuned(model, MaskedLora(mask))
    given.merge_adapter()
    given.unmerge_adapter()
    weight = given.get_base_model().get_submodule(Q.removesuffix(".weight")).base_layer.weight
    members = mask.tensors[Q]
    assert torch.equal(bits(weight.detach()[members]), bits(before[Q][members]))


# --- column


@each_family
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_column_leaves_every_masked_weight_as_it_was(family, precision):
    model = build(family)
    before, mask = state_of(model), columns_of(model)
    given = tuned(model, MaskedLora(mask, "column", targets=FAMILIES[family]), precision=precision)
    names = adapted_names(given)
    merged = given.merge_and_unload()
    for name, members in mask.tensors.items():
        assert torch.equal(merged.get_parameter(name)[members], before[name][members]), name
    assert_trained_outside(merged, before, mask, names)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw_torch"])
def test_column_keeps_a_at_zero_exactly_under_any_optimizer(optimizer, decay):
    model = build("llama")
    given = tuned(
        model,
        MaskedLora(columns_of(model), "column"),
        optimizer=optimizer,
        weight_decay=decay,
        learning_rate=0.1,
    )
    for name in adapted_names(given):
        weight = given.get_base_model().get_submodule(name).lora_A["default"].weight
        assert not weight[:, [1, 5]].any()
        assert (weight != 0).float().mean() == 14 / 16


def test_column_never_reads_its_inputs():
    model = build("llama")
    given = tuned(model, MaskedLora(columns_of(model), "column"))
    layer = given.get_base_model().get_submodule(Q.removesuffix(".weight"))
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, [1, 5]] = 100.0
    with torch.no_grad():
        changes = [layer(v) - functional.linear(v, layer.base_layer.weight) for v in (x, other)]
    torch.testing.assert_close(*changes, atol=1e-4, rtol=0)


def test_column_keeps_off_every_column_with_a_single_masked_weight():
    model = build("llama")
    members = torch.zeros(16, 16, dtype=torch.bool)
    members[3, 7] = True
    mask = WeightMask(tensors={Q: members}, model_id="m")
    given = tuned(model, MaskedLora(mask, "column"))
    weight = (
        given.get_base_model().get_submodule(Q.removesuffix(".weight")).lora_A["default"].weight
    )
    assert (weight == 0).all(dim=0).nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize(
    ("counts", "coverage", "expected"),
    [
        ([1, 0, 5, 4], 1.0, [0, 2, 3]),
        ([1, 0, 5, 4], 0.9, [2, 3]),
        ([1, 0, 5, 4], 0.5, [2]),
        ([1, 0, 5, 4], 0.51, [2, 3]),
        ([2, 2, 2, 2], 0.5, [0, 1]),
        ([0, 0, 3, 0], 0.1, [2]),
    ],
)
def test_the_fewest_columns_that_hold_the_share(counts, coverage, expected):
    chosen = covering_columns(torch.tensor(counts), coverage)
    assert chosen.nonzero().flatten().tolist() == expected


# --- under any optimizer, decay, precision, clipping, accumulation, and after a resume


def trained_in_a_way(protect, way, out, **options):
    """Return trained adapters; `resume` stops after the third step and goes on from the second."""
    if way != "resume":
        return tuned(build("llama"), protect, **options, **WAYS[way])
    with pytest.raises(KeyboardInterrupt):
        tuned(build("llama"), protect, out, stop_at(3), save_steps=2, **options)
    return tuned(build("llama"), protect, out, save_steps=2, **options)


@pytest.mark.parametrize("way", ["accumulation", "clipping", "resume"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("mode", ["entry", "column"])
def test_merged_weights_are_as_they_were_inside_the_mask_and_no_others_are(
    mode, optimizer, precision, way, tmp_path
):
    model = build("llama")
    before, mask = state_of(model), mask_of(model) if mode == "entry" else columns_of(model)
    protect = MaskedLora(mask, mode)
    given = trained_in_a_way(protect, way, tmp_path, precision=precision, **optimizer)
    names = adapted_names(given)
    merged = given.merge_and_unload()
    for name, members in mask.tensors.items():
        assert torch.equal(merged.get_parameter(name)[members], before[name][members]), name
    assert_trained_outside(merged, before, mask, names)


# --- what reaches what


def test_what_the_mask_reaches_is_told(caplog):
    caplog.set_level("WARNING", logger="safetypin")
    model = build("llama")
    mask = columns_of(model)
    tuned(model, MaskedLora(mask, "column"), max_steps=1)
    inside = 2 * 2 * 16 + 2 * 2 * 8
    assert (
        f"{inside} of the mask's {mask.num_selected:,} weights are in matrices with an adapter; "
        "the others cannot change at all"
    ) in caplog.text
    assert "the adapters of masked matrices read 87.5% of their inputs" in caplog.text


def refused(protect, model=None):
    model = model or build("llama")
    before = state_of(model)
    with pytest.raises(UserError) as caught:
        tuned(model, protect)
    assert state_of(model).keys() == before.keys()
    return str(caught.value)


@pytest.mark.parametrize("mode", ["entry", "column"])
def test_a_mask_that_no_adapter_reaches_is_refused(mode):
    model = build("llama")
    mask = mask_of(model, [UP])
    assert refused(MaskedLora(mask, mode), model) == (
        f"none of the {mask.num_selected} weights of the mask is in a matrix that this run can "
        "train (adapters on q_proj, v_proj), so it would protect nothing; choose targets among the "
        "mask's matrices (--lora-targets), or train without it (--protect lora)"
    )


def test_the_base_mode_says_where_its_mask_reaches_no_adapter(caplog):
    caplog.set_level("WARNING", logger="safetypin")
    model = build("llama")
    mask = mask_of(model, [UP])
    tuned(model, MaskedLora(mask, "base"), max_steps=1)
    assert (
        f"none of the mask's {mask.num_selected} weights is in a matrix with an adapter (adapters "
        "on q_proj, v_proj): they cannot change, and this is plain LoRA beside them"
    ) in caplog.text
    assert "free to change" not in caplog.text


@pytest.mark.parametrize(
    ("targets", "scored", "expected"),
    [
        # q_proj is 16 by 16, v_proj 8 by 16
        (("q_proj",), ("q_proj",), 0.9**16),
        (("q_proj", "v_proj"), ("q_proj", "v_proj"), (0.9**16 + 0.9**8) / 2),
        (("q_proj", "v_proj"), ("q_proj",), (0.9**16 + 1) / 2),
        # down_proj is 16 by 24
        (("q_proj", "down_proj"), ("q_proj", "down_proj"), 0.9**16),
        (("q_proj", "down_proj"), ("down_proj",), (16 + 24 * 0.9**16) / 40),
    ],
)
def test_how_many_inputs_an_evenly_spread_set_leaves(targets, scored, expected):
    model = build("llama")
    names = {name for name in block_weights(model) if name.split(".")[-2] in scored}
    assert readable_inputs(model, targets, names, 0.1) == pytest.approx(expected)


def test_the_inputs_of_a_transposed_matrix_are_counted_too():
    model = build("gpt2")  # c_fc is 24 by 16, and stored as 16 by 24
    names = set(block_weights(model))
    assert readable_inputs(model, ("c_fc",), names, 0.1) == pytest.approx(0.9**24)


def test_a_mask_with_a_member_in_every_column_is_refused_by_column():
    model = build("llama")
    message = refused(MaskedLora(mask_of(model, share=0.9), "column"), model)
    assert message == (
        "every input column of every adapted matrix holds a masked weight, so nothing could be "
        "trained; take mode 'entry', which holds single weights (--protect lora-entry), keep off "
        "fewer columns with a coverage below 1 (--lora-coverage 0.5), or take a smaller set"
    )
    tuned(model, MaskedLora(mask_of(model, share=0.9), "column", coverage=0.5), max_steps=1)


def test_a_target_that_is_not_there_is_refused():
    assert "target 'qproj' matches no weight of LlamaForCausalLM" in refused(
        Lora(targets=("qproj",))
    )
    assert "target 'q_proj' matches no weight" in refused(Lora(), build("gpt2"))
    assert "no target was given" in refused(Lora(targets=()))


def test_layers_of_two_layouts_are_not_adapted_at_once():
    message = refused(Lora(targets=("c_attn", "lm_head")), build("gpt2"))
    assert "the targets mix linear layers of two layouts" in message


def test_experts_in_one_tensor_cannot_carry_an_adapter():
    message = refused(Lora(targets=("expert_ffn_down",)), build("mixtral"))
    assert "the experts of a mixture in one tensor, which cannot carry an adapter" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "the rank of LoRA must be at least 1, got 0"),
        ({"alpha": 0.0}, "the alpha of LoRA must be above 0, got 0.0"),
        ({"dropout": 1.0}, "the dropout of LoRA must be in [0, 1), got 1.0"),
    ],
)
def test_impossible_adapters_are_refused(options, message):
    with pytest.raises(UserError) as caught:
        Lora(**options)
    assert str(caught.value) == message


def test_impossible_modes_are_refused(tiny_llama):
    mask = mask_of(tiny_llama)
    with pytest.raises(UserError, match=r"coverage must be in \(0, 1\], got 0.0; 50% is 0.5"):
        MaskedLora(mask, coverage=0.0)


def test_the_model_is_bare_again_after_an_error():
    model = build("llama")
    before = state_of(model)

    def fail(*_):
        raise ZeroDivisionError

    for mode in ("entry", "column", "base"):
        with pytest.raises(ZeroDivisionError):
            tuned(model, MaskedLora(columns_of(model), mode), on_step=fail)
        assert state_of(model).keys() == before.keys()
        assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert not model.training


@pytest.mark.parametrize("mode", ["entry", "column", "base"])
def test_a_resumed_run_ends_where_one_run_does(mode, tmp_path):
    def stop(step, of, loss):
        if step == 8:  # in the second epoch, of 5 steps
            raise KeyboardInterrupt

    protect = MaskedLora(columns_of(build("llama")), mode)
    options = {"save_steps": 7, "max_steps": 11}
    whole = tuned(build("llama"), protect, **options)
    with pytest.raises(KeyboardInterrupt):
        tuned(build("llama"), protect, tmp_path, on_step=stop, **options)
    resumed = tuned(build("llama"), protect, tmp_path, **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
