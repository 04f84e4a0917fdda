import dataclasses

import pytest
import torch

from conftest import build, examples, make_batches
from intervene.finetuning import DATA, SMALL, bits, mask_of, state_of, tokenizer
from reference.warp import train_reparametrised
from safetypin.artifacts import ArtifactMismatchError, PromptSet, UserError, read_json
from safetypin.intervene import (
    Freeze,
    MaskedLora,
    Rewind,
    Training,
    Warp,
    WarpLora,
    finetune,
    pruned,
    save_tuned,
    training_rows,
)
from safetypin.intervene._data import padded
from safetypin.intervene.protect._coefficients import CoefficientOptimizer, Coefficients
from safetypin.models import load_model, model_id
from safetypin.scores import random_coefficients
from safetypin.select import matched_random, top_directions, top_fraction
from safetypin.subspaces import identity_basis, input_basis, random_basis

ONE = PromptSet(name="one door", prompts=DATA.prompts[:1])
BASES = {"input": None, "random": random_basis, "identity": identity_basis}


def basis_of(model, kind="input", **options):
    if kind == "input":
        return input_basis(model, make_batches(examples(12), 4), **options)
    return BASES[kind](model, **options)


def warp_of(model, kind="input", share=0.3, **options):
    basis = basis_of(model, kind, **options)
    return Warp(basis, top_fraction(random_coefficients(model, basis), share))


def exact(protect):
    """Return the same with directions that are orthonormal in float64, so that W0 U U^T is W0."""
    directions = {
        site: torch.linalg.qr(u.double())[0] for site, u in protect.basis.directions.items()
    }
    return Warp(dataclasses.replace(protect.basis, directions=directions), protect.mask)


def tuned(model, protect, out=None, data=DATA, on_step=None, **options):
    training = dataclasses.replace(SMALL, **options)
    return finetune(
        model, tokenizer(), data, protect=protect, training=training, out=out, on_step=on_step
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("options", [{"optimizer": "sgd"}, {"weight_decay": 0.1}])
def test_adapters_never_read_the_held_directions(family, options):
    model = build(family)
    basis = basis_of(model)
    mask = top_directions(random_coefficients(model, basis), 0.25)
    targets = ("q_proj", "v_proj") if family == "llama" else ("c_attn",)
    protect = WarpLora(basis, mask, r=2, targets=targets)
    adapted = tuned(model, protect, max_steps=4, learning_rate=0.1, **options)
    seen = 0
    for module_name, layer in adapted.get_base_model().named_modules():
        name = f"{module_name}.weight"
        if not hasattr(layer, "lora_A") or name not in mask.tensors:
            continue
        seen += 1
        change = layer.get_delta_weight("default").double()
        if name in basis.transposed:
            change = change.T
        held = mask.tensors[name].any(dim=1 if name in basis.transposed else 0)
        read = (change @ basis.of(name).double())[:, held]
        assert change.abs().max() > 1e-4
        assert read.abs().max() <= 1e-6 * change.abs().max()
    assert seen


def test_targets_beside_the_mask_carry_no_adapter_and_the_measure_says_what_moved(tmp_path, caplog):
    model = build("llama")
    basis = basis_of(model, layers="last")
    mask = top_directions(random_coefficients(model, basis), 0.25)
    protect = WarpLora(basis, mask, r=2, targets=("q_proj", "v_proj"))
    adapted = tuned(model, protect, tmp_path, learning_rate=0.1)
    carrying = [n for n, m in adapted.get_base_model().named_modules() if hasattr(m, "lora_A")]
    assert {f"{name}.weight" for name in carrying} == {
        f"model.layers.1.self_attn.{name}_proj.weight" for name in "qv"
    }
    assert "2 of the targets (q_proj, v_proj) are outside the matrices of the mask" in caplog.text
    measured = read_json(tmp_path / "protection.json")
    assert 0 <= measured["frozen_change"] <= measured["tolerance"] == 1e-6
    assert measured["free_change"] > 1e-3
    guard = protect.begin(build("llama"))
    for name, parameter in guard.model.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter)
    with pytest.raises(UserError, match=r"a held coefficient of .* moved by"):
        guard.measure()


def moved_coefficients(model, before, protect):
    """Return the largest change of a held and of a free coefficient, over the largest of all."""
    held, free = 0.0, 0.0
    basis = protect.basis
    for name, frozen in protect.mask.tensors.items():
        change = model.get_parameter(name).detach().double() - before[name].double()
        turned = basis.rotated(name, change).abs()
        largest = float(basis.rotated(name, before[name].double()).abs().max())
        held = max(held, float(turned[frozen].max()) / largest) if frozen.any() else held
        free = max(free, float(turned[~frozen].max()) / largest)
    return held, free


# --- the maths, in float64


@pytest.mark.parametrize("max_norm", [0.0, 0.01])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize(("family", "kind"), [("llama", "input"), ("gpt2", "random")])
def test_20_steps_equal_those_of_w_c_ut_itself(family, kind, make, weight_decay, max_norm):
    model = build(family).double()
    protect = exact(warp_of(model, kind))
    batch = padded(training_rows(tokenizer(), ONE).rows, pad=0)
    expected = train_reparametrised(
        model, batch, protect.basis, protect.mask, steps=20, rate=1e-2,
        weight_decay=weight_decay, max_norm=max_norm, make=make,
    )  # fmt: skip
    matrices = [
        Coefficients(name, model.get_parameter(name), frozen, protect.basis)
        for name, frozen in protect.mask.tensors.items()
    ]
    optimizer = CoefficientOptimizer(matrices, [], make, weight_decay=weight_decay, lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        if max_norm:
            optimizer.clip(max_norm)
        optimizer.step()
    for name, weight in expected.items():
        found = model.get_parameter(name).detach()
        assert (found - weight).abs().max() < 1e-10 * weight.abs().max(), name


# a fused one changes what it steps without a new version of it
@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", BASES)
def test_20_adamw_steps_of_the_training_loop_equal_those_of_w_c_ut_itself(
    kind, weight_decay, optimizer
):
    model = build("llama")
    protect = warp_of(model, kind)
    batch = padded(training_rows(tokenizer(), ONE).rows, pad=0)
    expected = train_reparametrised(
        model, batch, protect.basis, protect.mask, steps=20, rate=1e-3,
        weight_decay=weight_decay, max_norm=1.0,
    )  # fmt: skip
    tuned(
        model, protect, data=ONE, max_steps=20, batch_size=1, learning_rate=1e-3,
        weight_decay=weight_decay, schedule="constant", max_grad_norm=1.0, optimizer=optimizer,
    )  # fmt: skip
    for name, weight in expected.items():
        found = model.get_parameter(name).detach().double()
        # in float32, whose basis is orthonormal to about 1e-6; above, in float64, to 1e-10
        assert (found - weight).abs().max() <= 1e-6, name


def test_frozen_coefficients_are_not_in_the_optimizer_at_all():
    model = build("llama")
    protect = warp_of(model, share=0.3)
    guard = protect.begin(model)
    optimizer = guard.make_optimizer(torch.optim.AdamW, "adamw_torch", set(), 0.1, {"lr": 1e-3})
    inside = [p for group in optimizer.optimizer.param_groups for p in group["params"]]
    free = protect.mask.num_weights - protect.mask.num_selected
    assert sum(parameter.numel() for parameter in inside) == free


# --- held means held

WAYS = {
    "accumulation": {"accumulation": 3, "max_grad_norm": 0.0},
    "clipping": {"max_grad_norm": 0.01},
    "decay": {"weight_decay": 0.1},
    "bf16": {"precision": "bf16", "weight_decay": 0.1},
    "fused": {"optimizer": "adamw_torch_fused", "weight_decay": 0.1},
    "rmsprop": {"optimizer": "rmsprop"},
    "adagrad": {"optimizer": "adagrad"},
    "sgd": {"optimizer": "sgd", "weight_decay": 0.1, "learning_rate": 0.1},
    "checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("kind", BASES)
def test_held_coefficients_stay_and_the_others_move(kind, way):
    model = build("llama")
    protect, before = warp_of(model, kind), state_of(model)
    assert tuned(model, protect, **way) is model
    held, free = moved_coefficients(model, before, protect)
    assert held <= 1e-6
    assert free > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "phi3", "gemma3", "gpt_neox", "qwen3", "mixtral"])
def test_held_coefficients_stay_in_every_family(family):
    model = build(family)
    protect, before = warp_of(model), state_of(model)
    tuned(model, protect)
    held, free = moved_coefficients(model, before, protect)
    assert held <= 1e-6
    assert free > 1e-3


def test_in_the_weights_own_coordinates_held_weights_keep_every_bit():
    model = build("llama")
    protect, before = warp_of(model, "identity"), state_of(model)
    tuned(model, protect, weight_decay=0.1)
    for name, frozen in protect.mask.tensors.items():
        now = model.get_parameter(name).detach()
        assert torch.equal(bits(now[frozen]), bits(before[name][frozen]))


def test_the_identity_basis_trains_as_freezing_does():
    model, other = build("llama"), build("llama")
    protect = warp_of(model, "identity")
    for name, parameter in other.named_parameters():
        parameter.requires_grad_(name in protect.mask.tensors)
    tuned(model, protect, max_grad_norm=0.0, learning_rate=1e-3)
    tuned(other, Freeze(protect.mask), max_grad_norm=0.0, learning_rate=1e-3)
    for name in protect.mask.tensors:
        left, right = (m.get_parameter(name).detach() for m in (model, other))
        assert torch.allclose(left, right, rtol=0, atol=1e-6 * float(right.abs().max()))


def test_nothing_but_the_masked_matrices_is_trained_and_flags_come_back():
    model = build("llama")
    protect, before = warp_of(model, layers="last"), state_of(model)
    tuned(model, protect, weight_decay=0.1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is (name not in protect.mask.tensors), name
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_all_other_parameters_are_trained_when_asked_for():
    model = build("llama")
    protect, before = dataclasses.replace(warp_of(model), train_others=True), state_of(model)
    tuned(model, protect, weight_decay=0.1)
    assert not any(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert moved_coefficients(model, before, protect)[0] <= 1e-6


def test_without_a_change_the_weights_have_their_first_bits():
    model = build("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.view(-1)[:3] = -0.0
    protect, before = warp_of(model), state_of(model)
    guard = protect.begin(model)
    optimizer = guard.make_optimizer(torch.optim.AdamW, "adamw_torch", set(), 0.0, {"lr": 0.0})
    optimizer.load_state_dict(optimizer.state_dict())
    model(torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
    optimizer.step()
    guard.after_training()
    assert all(torch.equal(bits(v), bits(before[n])) for n, v in model.state_dict().items())


def test_a_keep_ratio_of_0_trains_everything_in_the_rotated_basis():
    model = build("llama")
    protect, before = warp_of(model, share=0.0), state_of(model)
    assert protect.mask.num_selected == 0
    tuned(model, protect)
    assert moved_coefficients(model, before, protect)[1] > 1e-3


def test_a_model_in_bfloat16_is_trained_in_float32_from_its_own_values():
    model = build("llama", torch.bfloat16)
    protect, before = warp_of(model), state_of(model)
    tuned(model, protect, learning_rate=1e-6)
    assert moved_coefficients(model, before, protect)[0] <= 1e-6
    name = next(iter(protect.mask.tensors))
    change = model.get_parameter(name).detach() - before[name].float()
    assert model.get_parameter(name).dtype == torch.float32
    assert (change != 0).float().mean() > 0.9  # bfloat16 would have lost such steps


# --- resumed, saved


def stop_at(step):
    def on_step(number, of, loss):
        if number == step:
            raise KeyboardInterrupt

    return on_step


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, weight_decay):
    options = {"weight_decay": weight_decay, "save_steps": 2}
    whole, killed = build("llama"), build("llama")
    protect, before = warp_of(whole), state_of(whole)
    tuned(whole, protect, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        tuned(killed, protect, tmp_path / "killed", on_step=stop_at(3), **options)
    again = build("llama")
    tuned(again, protect, tmp_path / "killed", **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert moved_coefficients(again, before, protect)[0] <= 1e-6
    measured = read_json(tmp_path / "killed" / "protection.json")
    assert 0 < measured["frozen_change"] <= measured["tolerance"] == 1e-6


def test_a_finished_training_is_taken_from_its_last_checkpoint(tmp_path):
    first, again = build("llama"), build("llama")
    protect = warp_of(first)
    tuned(first, protect, tmp_path, save_steps=2)
    measured = read_json(tmp_path / "protection.json")
    assert measured["free_change"] > 1e-3
    tuned(again, protect, tmp_path, save_steps=2)
    assert all(torch.equal(again.state_dict()[n], v) for n, v in first.state_dict().items())
    assert read_json(tmp_path / "protection.json") == measured


def test_the_saved_model_is_an_ordinary_folder_and_keeps_the_held_coefficients(tmp_path):
    model = build("llama")
    protect, before = warp_of(model), state_of(model)
    save_tuned(tuned(model, protect), tokenizer(), tmp_path)
    loaded, _ = load_model(str(tmp_path), dtype="auto", device="cpu")
    assert type(loaded) is type(model)
    assert moved_coefficients(loaded, before, protect)[0] <= 1e-6
    names = {path.name for path in tmp_path.iterdir()}
    assert "model.safetensors" in names
    assert not any("adapter" in name or "basis" in name for name in names)


# --- bad input, before the model is touched


def test_a_basis_of_another_model_is_refused_with_both_names():
    model, other = build("llama"), build("llama")
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(2)
    protect, before = warp_of(other), state_of(model)
    with pytest.raises(ArtifactMismatchError, match=r"the basis is of .*, the model is") as caught:
        tuned(model, protect)
    assert model_id(model) in str(caught.value)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


@pytest.mark.parametrize("lost", ["site", "weight"])
def test_a_missing_layer_is_an_error_and_the_model_is_untouched(lost):
    # the published code leaves such a layer at zero, and saves it so
    model = build("llama")
    protect, before = warp_of(model), state_of(model)
    name = "model.layers.1.mlp.down_proj.weight"
    basis = protect.basis
    if lost == "site":
        gone = basis.sites[name]
        rest = {key: value for key, value in basis.directions.items() if key != gone}
        basis = dataclasses.replace(basis, directions=rest)
    else:
        sites = {key: value for key, value in basis.sites.items() if key != name}
        basis = dataclasses.replace(basis, sites=sites)
        protect = dataclasses.replace(
            protect, mask=dataclasses.replace(protect.mask, space=basis.space)
        )
    ids = torch.tensor([[3, 4, 5]])
    logits = model(ids).logits
    with pytest.raises(ArtifactMismatchError, match=r"no directions for 1 weights, first '.*down"):
        tuned(model, dataclasses.replace(protect, basis=basis))
    assert torch.equal(model(ids).logits, logits)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_a_mask_of_other_coordinates_is_refused():
    model = build("llama")
    protect = warp_of(model)
    other = random_basis(model)
    with pytest.raises(ArtifactMismatchError, match=f"{protect.basis.fingerprint}.*{other.space}"):
        tuned(model, Warp(other, protect.mask))
    with pytest.raises(ArtifactMismatchError, match="in the coordinates weights"):
        tuned(model, Warp(protect.basis, mask_of(model)))


@pytest.mark.parametrize("adapters", [False, True])
def test_a_mask_of_another_model_in_the_weights_own_coordinates_is_refused(adapters):
    model = build("llama")
    protect = warp_of(model, "identity")
    mask = dataclasses.replace(protect.mask, model_id="other#0123456789ab")
    other = WarpLora(protect.basis, mask) if adapters else Warp(protect.basis, mask)
    with pytest.raises(ArtifactMismatchError, match=r"the mask is of other#0123456789ab, the mod"):
        tuned(model, other)


REFUSING = {
    "freeze": lambda model, mask: Freeze(mask).check(model),
    "rewind": lambda model, mask: Rewind(mask).check(model),
    "lora-entry": lambda model, mask: MaskedLora(mask, "entry").check(model),
    "lora-column": lambda model, mask: MaskedLora(mask, "column").check(model),
    "pruned": lambda model, mask: pruned(model, mask).__enter__(),
    "matched": lambda model, mask: matched_random(mask, model, seed=0, match="magnitude"),
    "and": lambda model, mask: mask & mask_of(model),
}


@pytest.mark.parametrize("name", REFUSING)
def test_everything_else_refuses_a_mask_of_coefficients(name):
    model = build("llama")
    protect = warp_of(model)
    with pytest.raises(UserError, match=protect.basis.fingerprint):
        REFUSING[name](model, protect.mask)


def test_a_mask_of_every_coefficient_leaves_nothing_to_train():
    model = build("llama")
    with pytest.raises(UserError, match="holds every coefficient"):
        tuned(model, warp_of(model, share=1.0))


def test_a_matrix_that_is_not_trained_is_named():
    model = build("llama")
    protect = warp_of(model)
    model.requires_grad_(False)
    with pytest.raises(UserError, match="cannot train"):
        tuned(model, protect)


def test_a_basis_that_is_not_orthonormal_is_found_out():
    model = build("llama")
    protect = warp_of(model)
    bent = {site: 1.01 * u + 0.01 for site, u in protect.basis.directions.items()}
    basis = dataclasses.replace(protect.basis, directions=bent)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match="are not orthonormal"):
        tuned(model, Warp(basis, protect.mask))
    # before a step was made
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_defaults_are_those_of_the_document():
    assert Warp.learning_rate == 5e-5
    assert Training().epochs == 3
