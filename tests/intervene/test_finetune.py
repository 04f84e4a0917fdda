import dataclasses
import inspect
import itertools
import json
import weakref

import pytest
import torch
from peft.tuners.lora import Linear
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from conftest import build
from intervene.finetuning import (
    DATA,
    OPTIMIZERS,
    SMALL,
    WAYS,
    assert_changed_outside,
    assert_kept_inside,
    bits,
    columns_of,
    mask_of,
    state_of,
    stop_at,
    tokenizer,
)
from safetypin.artifacts import ArtifactMismatchError, Prompt, PromptSet, UserError, WeightMask
from safetypin.intervene import (
    PROTECTIONS,
    Freeze,
    Full,
    HeldWeights,
    Lora,
    MaskedLora,
    OnlyTrain,
    Rewind,
    Training,
    _training,
    finetune,
    training_rows,
)
from safetypin.intervene._data import padded
from safetypin.intervene._trainer import GuardedTrainer
from safetypin.intervene.protect._entry import EntryLinear

UP = "model.layers.0.mlp.up_proj.weight"


# those of rotated coordinates are tried in test_warp.py
MASKED = {name: kind for name, kind in PROTECTIONS.items() if not kind.needs_basis}


def tuned(model, protect, out=None, data=DATA, on_step=None, **options):
    training = dataclasses.replace(SMALL, **options)
    return finetune(
        model, tokenizer(), data, protect=protect, training=training, out=out, on_step=on_step
    )


# --- frozen means frozen


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_frozen_weights_are_bit_identical_and_the_others_are_not(optimizer, precision, way):
    model = build("llama")
    before, mask = state_of(model), mask_of(model)
    assert tuned(model, Freeze(mask), precision=precision, **optimizer, **way) is model
    assert_kept_inside(model, before, mask)
    assert_changed_outside(model, before, mask)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_frozen_weights_are_bit_identical_after_a_resume(optimizer, precision, tmp_path):
    options = {**optimizer, "precision": precision, "save_steps": 2}
    whole = build("llama")
    before, mask = state_of(whole), mask_of(whole)
    tuned(whole, Freeze(mask), **options)
    with pytest.raises(KeyboardInterrupt):
        tuned(build("llama"), Freeze(mask), tmp_path, on_step=stop_at(3), **options)
    resumed = build("llama")
    tuned(resumed, Freeze(mask), tmp_path, **options)
    assert_kept_inside(resumed, before, mask)
    assert_changed_outside(resumed, before, mask)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), f"{name} differs from one run"


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "mixtral", "gemma3"])
def test_every_architecture_can_be_frozen(family):
    model = build(family)
    before, mask = state_of(model), mask_of(model)
    tuned(model, Freeze(mask), max_steps=2)
    assert_kept_inside(model, before, mask)


def test_tied_embeddings_can_be_frozen():
    model = build("gpt2")
    before, mask = state_of(model), mask_of(model, ["transformer.wte.weight"])
    tuned(model, Freeze(mask))
    assert_kept_inside(model, before, mask)
    assert model.lm_head.weight is model.get_parameter("transformer.wte.weight")


def test_freezing_all_weights_of_a_matrix_leaves_it_untouched(tiny_llama):
    before, mask = state_of(tiny_llama), mask_of(tiny_llama, [UP], share=1.1)
    tuned(tiny_llama, Freeze(mask))
    assert torch.equal(tiny_llama.get_parameter(UP), before[UP])


def test_rewinding_is_full_training_with_the_masked_weights_put_back():
    model, free = build("llama"), build("llama")
    before, mask = state_of(model), mask_of(model)
    tuned(free, Full())
    tuned(model, Rewind(mask))
    assert_kept_inside(model, before, mask)
    for name, value in free.state_dict().items():
        members = mask.tensors.get(name, torch.zeros_like(value, dtype=torch.bool))
        assert torch.equal(model.state_dict()[name][~members], value[~members])


def test_rewinding_after_a_resume_gives_the_weights_before_all_training(tmp_path):
    before, mask = state_of(build("llama")), mask_of(build("llama"))
    with pytest.raises(KeyboardInterrupt):
        tuned(build("llama"), Rewind(mask), tmp_path, save_steps=2, on_step=stop_at(3))
    model = build("llama")
    tuned(model, Rewind(mask), tmp_path, save_steps=2)
    assert_kept_inside(model, before, mask)


def test_freezing_is_not_rewinding():
    frozen, rewound = build("llama"), build("llama")
    mask = mask_of(frozen)
    tuned(frozen, Freeze(mask))
    tuned(rewound, Rewind(mask))
    assert not torch.equal(frozen.get_parameter(UP), rewound.get_parameter(UP))


def test_half_precision_weights_are_trained_in_float32_and_frozen_all_the_same():
    model = build("llama", torch.bfloat16)
    before, mask = state_of(model), mask_of(model)
    tuned(model, Freeze(mask), learning_rate=1e-5, optimizer="adamw_torch")
    assert model.dtype == torch.float32
    assert_kept_inside(model, before, mask)
    moved = model.get_parameter(UP) - before[UP].float()
    outside = moved[~mask.tensors[UP]]
    assert (outside != 0).float().mean() > 0.9, "bfloat16 would have rounded the steps away"
    assert outside.abs().max() < 1e-4


# --- what a run found that it held


HOLDING = {
    "freeze": lambda model: Freeze(mask_of(model)),
    "rewind": lambda model: Rewind(mask_of(model)),
    "sn-tune": lambda model: OnlyTrain(mask_of(model, [UP])),
    "lora-entry": lambda model: MaskedLora(mask_of(model)),
    "lora-column": lambda model: MaskedLora(columns_of(model), "column"),
    "half of lora-column": lambda model: MaskedLora(columns_of(model), "column", coverage=0.5),
}


def num_held(name, model):
    """Return how many weights a run holds: llama's q_proj is 16 by 16, its v_proj 8 by 16."""
    members = mask_of(model).tensors
    adapted = [key for key in members if "q_proj" in key or "v_proj" in key]
    if name == "sn-tune":
        return int((~mask_of(model, [UP]).tensors[UP]).sum())
    if name == "lora-entry":
        return sum(int(members[key].sum()) for key in adapted)
    if "column" in name:  # in two layers, two columns of each, or one
        return 2 * (2 if name == "lora-column" else 1) * (16 + 8)
    return mask_of(model).num_selected


@pytest.mark.parametrize("name", HOLDING)
def test_a_run_records_how_many_weights_it_found_in_place(name, tmp_path):
    model = build("llama")
    tuned(model, HOLDING[name](model), tmp_path, max_steps=1)
    found = json.loads((tmp_path / "protection.json").read_text())
    assert found == {"held": num_held(name, build("llama")), "in_place": True}


def test_a_run_that_holds_nothing_records_nothing(tmp_path):
    tuned(build("llama"), Full(), tmp_path / "none", max_steps=1)
    tuned(build("llama"), Lora(), tmp_path / "lora", max_steps=1)
    assert not list(tmp_path.rglob("protection.json"))


@pytest.mark.parametrize("name", ["freeze", "rewind", "sn-tune", "lora-column"])
def test_a_run_whose_weights_were_not_put_back_is_an_error(name, monkeypatch, tmp_path):
    monkeypatch.setattr(HeldWeights, "restore", lambda held: None)
    model = build("llama")
    with pytest.raises(UserError, match="do not use this model as a protected one"):
        tuned(model, HOLDING[name](model), tmp_path, max_steps=2, weight_decay=0.1)
    assert not (tmp_path / "protection.json").exists()


def test_a_run_whose_adapters_change_masked_weights_is_an_error(monkeypatch):
    monkeypatch.setattr(EntryLinear, "get_delta_weight", Linear.get_delta_weight)
    model = build("llama")
    with pytest.raises(UserError, match=r"the adapters change protected weights of model\.layers"):
        tuned(model, MaskedLora(mask_of(model)), max_steps=2)


def test_the_mask_takes_no_memory_while_training():
    model = build("llama")
    mask = mask_of(model)
    protections, mask_of_up = [Freeze(mask)], weakref.ref(mask.tensors[UP])
    del mask
    alive = []
    # the checks of shapes that the tests put around it would keep what they checked
    inspect.unwrap(finetune)(
        model,
        tokenizer(),
        DATA,
        protect=protections.pop(),
        training=dataclasses.replace(SMALL, max_steps=1),
        on_step=lambda *_: alive.append(mask_of_up() is not None),
    )
    assert alive == [False]


# --- the loop


def test_the_model_learns_the_responses():
    model, losses = build("llama"), []
    tuned(model, Full(), max_steps=40, on_step=lambda *told: losses.append(told))
    assert [step for step, _, _ in losses] == list(range(1, 41))
    assert {of for _, of, _ in losses} == {40}
    assert losses[-1][2] < 0.3 * losses[0][2]


def test_the_loss_of_a_step_is_the_mean_over_the_tokens_of_all_its_batches():
    rows = training_rows(tokenizer(), DATA, 48).rows
    expected = build("llama")(**padded(rows, pad=0)).loss
    told = []
    size = {"batch_size": 3, "accumulation": 4, "max_steps": 1}
    tuned(build("llama"), Full(), on_step=lambda *step: told.append(step), **size)
    ((_, _, loss),) = told
    torch.testing.assert_close(loss, float(expected.detach()), rtol=1e-5, atol=0)


def test_two_runs_with_one_seed_are_equal_and_another_seed_is_another_order():
    one, same, other = (build("llama") for _ in range(3))
    for model, seed in ((one, 1), (same, 1), (other, 2)):
        tuned(model, Full(), seed=seed)
    assert torch.equal(one.get_parameter(UP), same.get_parameter(UP))
    assert not torch.equal(one.get_parameter(UP), other.get_parameter(UP))


def test_accumulated_small_batches_give_the_step_of_a_large_one():
    large, small = build("llama"), build("llama")
    whole = {"optimizer": "sgd", "max_steps": 1, "learning_rate": 0.1}
    tuned(large, Full(), batch_size=10, accumulation=1, **whole)
    tuned(small, Full(), batch_size=1, accumulation=10, **whole)
    torch.testing.assert_close(small.get_parameter(UP), large.get_parameter(UP))


def test_a_part_of_an_epoch_ends_inside_it():
    steps = []
    tuned(build("llama"), Full(), max_steps=None, epochs=1.5, on_step=lambda *s: steps.append(s))
    assert [step for step, _, _ in steps] == list(range(1, 9)), "10 examples in batches of 2"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("protect", [Full(), Lora()], ids=["full", "lora"])
def test_nothing_but_weights_is_left_on_the_model(protect, precision):
    model = build("llama")
    model.config.use_cache = True
    config = model.config.to_dict()
    given = tuned(model, protect, max_steps=2, precision=precision)
    assert not given.training
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert "forward" not in vars(model)
    assert "_original_forward" not in vars(model)
    assert model.config.to_dict() == config
    if isinstance(protect, Full):
        assert all(parameter.requires_grad for parameter in model.parameters())
    tokens = torch.tensor([[3, 4, 5]])
    assert given(tokens).logits.dtype == torch.float32


def test_mixed_precision_computes_in_another_precision_and_keeps_the_weights():
    exact, mixed = build("llama"), build("llama")
    tuned(exact, Full(), precision="fp32", max_steps=1)
    tuned(mixed, Full(), precision="bf16", max_steps=1)
    assert mixed.dtype == torch.float32
    assert not torch.equal(exact.get_parameter(UP), mixed.get_parameter(UP))


def test_responses_that_were_cut_off_are_told(caplog):
    tuned(build("llama"), Full(), max_length=10, max_steps=1)
    assert "of 10 examples, 10 had the end of their response cut off" in caplog.text


def test_no_file_is_left_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tuned(build("llama"), Full(), max_steps=1, save_steps=1)
    assert list(tmp_path.iterdir()) == []


# --- bad input; nothing is changed


def refused(protect, model=None, error=UserError, data=DATA, **options):
    model = model or build("llama")
    before = state_of(model)
    with pytest.raises(error) as caught:
        tuned(model, protect, data=data, **options)
    for name, value in model.state_dict().items():
        assert torch.equal(bits(value), bits(before[name])), name
    return str(caught.value)


@pytest.mark.parametrize("kind", [k for k, v in MASKED.items() if v.needs_mask])
def test_a_mask_of_another_model_or_in_other_coordinates_is_refused(kind):
    make = PROTECTIONS[kind].make
    other = mask_of(build("gpt2"))
    assert refused(make(other), error=ArtifactMismatchError).startswith(
        "the mask is of another model: LlamaForCausalLM has no weight 'transformer.h.0"
    )
    rotated = dataclasses.replace(mask_of(build("llama")), space="abc")
    message = refused(make(rotated), error=ArtifactMismatchError)
    assert message.startswith("the mask is in the basis abc, not over weights")


@pytest.mark.parametrize("kind", [Freeze, Rewind])
def test_a_mask_of_weights_that_are_not_trained_is_refused(kind):
    model = build("llama")
    model.get_parameter(UP).requires_grad_(False)
    assert refused(kind(mask_of(model)), model) == (
        "the mask names 1 matrices that this run cannot train (requires_grad is off), first "
        f"{UP!r}; leave them out of the mask, or let them be trained with requires_grad_(True)"
    )


@pytest.mark.parametrize("kind", [Freeze, Rewind])
def test_an_empty_mask_is_refused(kind):
    empty = mask_of(build("llama"), share=0)
    assert "the mask has no member" in refused(kind(empty))


def test_a_model_without_anything_to_train_is_refused():
    model = build("llama").requires_grad_(False)
    assert "no weight of the model requires a gradient" in refused(Full(), model)


def test_a_model_with_an_unmerged_adapter_is_refused():
    adapted = tuned(build("llama"), Lora(), max_steps=1)
    base = adapted.get_base_model()
    assert "carries an unmerged adapter at model.layers.0.self_attn.q_proj" in refused(Full(), base)


def test_data_without_responses_is_refused():
    data = PromptSet(name="asked", prompts=(Prompt(text="say"),))
    assert "1 of the 1 examples of 'asked' have no response" in refused(Full(), data=data)


def test_data_whose_responses_are_all_cut_off_is_refused():
    assert "all 10 responses of 'doors' are cut off" in refused(Full(), max_length=5)


def test_a_rare_precision_is_refused_where_the_device_cannot_do_it():
    message = refused(Full(), precision="fp16")
    assert message == "precision fp16 needs CUDA, the model is on cpu; use bf16 or fp32"


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")],
)
def test_too_little_memory_is_told_with_what_to_do(error):
    model = build("llama")

    def fail(*_):
        raise error

    model.model.layers[1].register_forward_pre_hook(fail)
    assert refused(Full(), model, batch_size=8) == (
        "cpu has not enough memory for batches of 8; halve --batch-size and double --accumulation, "
        "which gives the same steps, lower --max-length, or add --gradient-checkpointing"
    )


def test_the_folder_of_another_run_is_refused(tmp_path):
    tuned(build("llama"), Full(), tmp_path, max_steps=1)
    assert refused(Full(), out=tmp_path, max_steps=1, seed=7) == (
        f"{tmp_path / 'checkpoints'} holds checkpoints of a run with other settings: training seed "
        "was 42, now it is 7; choose another folder, or remove this one to start anew"
    )
    mask = mask_of(build("llama"))
    message = refused(Freeze(mask), out=tmp_path, max_steps=1)
    assert "protection protect was Full, now it is Freeze, and protection mask; " in message
    moved = build("llama")
    with torch.no_grad():
        moved.get_parameter(UP).add_(1)
    assert "settings: model was " in refused(Full(), moved, out=tmp_path, max_steps=1)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".settings.json.7.part").write_text("{")
    tuned(build("llama"), Full(), tmp_path, max_steps=1)
    (tmp_path / "checkpoints" / "settings.json").unlink()
    (tmp_path / "checkpoints" / "thesis.tex").write_text("x")
    assert "holds files, but no run of safetypin" in refused(Full(), out=tmp_path)


# --- the table of protections


def test_every_protection_says_what_it_is():
    for name, kind in MASKED.items():
        mask = (mask_of(build("llama")),) if kind.needs_mask else ()
        made = kind.make(*mask)
        assert isinstance(made, kind.protection)
        assert kind.learning_rate == (1e-4 if name.startswith("lora") else 2e-5)
        assert made.learning_rate == kind.learning_rate
        assert kind.summary
        assert all(hasattr(made, option) for option in kind.options)


def test_protections_with_other_settings_are_told_apart():
    first, second = (mask_of(build("llama"), seed=seed) for seed in (0, 1))
    made = [
        kind.make(mask) if kind.needs_mask else kind.make()
        for kind, mask in itertools.product(MASKED.values(), (first, second))
    ]
    made += [Lora(r=4), Lora(targets=("o_proj",))]
    told = {str(protection.settings) for protection in made}
    # rsn-tune is sn-tune on another set
    assert len(told) == 6 * 2 + 2 + 2


def test_the_default_learning_rate_is_the_protections_own(tmp_path):
    for protect, rate in ((Full(), 2e-5), (Lora(), 1e-4)):
        out = tmp_path / type(protect).__name__
        tuned(build("llama"), protect, out, learning_rate=None, schedule="constant", max_steps=1)
        (line,) = (out / "log.jsonl").read_text().splitlines()
        assert f'"learning_rate": {rate}' in line


def test_a_mask_without_members_in_some_matrices_is_fine(tiny_llama):
    mask = mask_of(tiny_llama, [UP])
    empty = {"lm_head.weight": torch.zeros(64, 16, dtype=torch.bool)}
    tiny_llama.lm_head.weight.requires_grad_(False)
    both = WeightMask(tensors={**mask.tensors, **empty}, model_id="m")
    before = state_of(tiny_llama)
    tuned(tiny_llama, Freeze(both), max_steps=2)
    assert_kept_inside(tiny_llama, before, both)
    assert torch.equal(tiny_llama.lm_head.weight, before["lm_head.weight"])


def test_sharding_by_the_trainer_is_refused_where_weights_are_held(monkeypatch):
    monkeypatch.setattr(
        GuardedTrainer,
        "create_accelerator_and_postprocess",
        sharded(GuardedTrainer.create_accelerator_and_postprocess),
    )
    message = refused(Freeze(mask_of(build("llama"))))
    assert "this protection needs whole weights in every process, but FSDP or DeepSpeed is on" in (
        message
    )


def sharded(create):
    def created(trainer):
        create(trainer)
        trainer.is_fsdp_enabled = True

    return created


def test_the_documents_defaults():
    training = Training()
    assert (training.epochs, training.batch_size, training.accumulation) == (3, 4, 4)
    assert (training.max_length, training.seed, training.optimizer) == (512, 42, "adamw_torch")
    assert training.save_steps is None
    lora = Lora()
    assert (lora.r, lora.alpha, lora.dropout) == (8, 16, 0.05)
    assert lora.targets == ("q_proj", "v_proj")


def test_a_tracker_is_told_every_step(monkeypatch):
    told = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            told.append((state.global_step, logs))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "fake", Tracker)
    for place in (integration_utils, _training):  # of trackers, only those installed are offered
        monkeypatch.setattr(place, "get_available_reporting_integrations", lambda: ["fake"])
    tuned(build("llama"), Full(), report_to=("fake",), max_steps=2)
    assert [step for step, logs in told if "loss" in logs] == [1, 2]
    told.clear()
    tuned(build("llama"), Full(), max_steps=1)
    assert not told
