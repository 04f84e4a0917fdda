"""Bad input to a tuning: a clear error, exit code 2, and nothing half-written."""

import dataclasses
import json
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model

from safetypin.artifacts import load, save
from safetypin.intervene import PROTECTIONS
from safetypin.models import load_model


@pytest.fixture
def rows_file(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protect": "frozen"}, "protect 'frozen' is unknown; choose one of none, freeze"),
        ({"learning_rate": 0}, "learning_rate: Input should be greater than 0 (got 0.0)"),
        ({"epochs": -1}, "epochs: Input should be greater than 0"),
        ({"batch_size": 0}, "batch_size: Input should be greater than or equal to 1"),
        ({"warmup_ratio": 1.5}, "warmup_ratio: Input should be less than 1"),
        ({"eval_fraction": 1}, "eval_fraction: Input should be less than 1"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; nearest: "),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; nearest: cosine"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"precision": "fp16"}, "precision fp16 needs CUDA, the model is on cpu"),
        ({"report_to": "wandb"}, "unknown report_to 'wandb'"),
        ({"lora_rank": 0}, "lora_rank: Input should be greater than or equal to 1"),
        ({"protect": "lora", "lora_targets": "q_prj"}, "q_prj"),
        ({"targets": "no_such_layer"}, "no_such_layer"),
        ({"q": 3}, "q must be between 0 and 1, got 3; 3 % is 0.03"),
        ({"p": 0}, "p must be between 0 and 1, got 0"),
        (
            {"method": "snap"},
            "method 'snap' is unknown; choose one of magnitude, magnitude-difference, random, snip",
        ),
        ({"reduction": "max"}, "reduction 'max' is unknown; choose one of mean, sum"),
        ({"control": "rand"}, "control 'rand' is unknown; choose one of random, matched"),
        ({"judge": "phrase"}, "no judge 'phrase'; nearest: phrases"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"gate": "asr"}, "gate 'asr' is no condition"),
        ({"gate": "arsr<=0.1"}, "unknown name 'arsr'; did you mean asr"),
        ({"gate": "asr<=10"}, "the limit must be between 0 and 1, got 10; 10 % is 0.1"),
        ({"num_data": 99}, "99 prompts asked of 'train.jsonl', which has 40"),
        ({"data": "alpca"}, "no prompt source 'alpca'; did you mean alpaca"),
        ({"set": "q0.01-p0.01"}, "--set chooses one of an audit's sets; name the audit"),
        ({"mask": "nowhere"}, "no folder 'nowhere'; --mask takes a folder of `safetypin select`"),
        ({"max_new_tokens": 60}, "new ones in the model's window of 64"),
    ],
)
def test_a_wrong_value_says_what_is_right(tune_refused, changes, words):
    assert words in tune_refused(**changes)


@pytest.mark.parametrize("name", ["model", "data", "protect"])
def test_what_must_be_given_is_named_with_the_way_to_give_it(command, tmp_path, name):
    given = {"model": "smollm2", "data": "alpaca", "protect": "none"}
    del given[name]
    model = [given.pop("model")] if "model" in given else []
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    ended = command("tune", *model, *words, "--out", tmp_path / "out")
    assert ended.code == 2
    assert f"no {name} was given" in ended.text
    assert f"or as `{name}` in the TOML file" in ended.text
    assert not (tmp_path / "out").exists()


def test_an_unknown_key_of_a_settings_file_names_the_nearest(command, tmp_path):
    file = tmp_path / "tune.toml"
    file.write_text("learnig_rate = 1e-3\ndata = 'x'\nprotect = 'none'\n")
    ended = command("tune", "smollm2", "--config", file, "--out", tmp_path / "out")
    assert ended.code == 2
    assert "tune.toml: unknown key 'learnig_rate'; did you mean learning_rate" in ended.text


def test_an_unknown_model_is_named(tune_refused):
    assert "it is no folder here and no alias" in tune_refused(model="smollm")


def test_examples_without_responses_are_refused(tune_refused, place):
    text = tune_refused(data=place / "attack.jsonl")
    assert "12 of the 12 examples" in text
    assert "have no response (first in row 0), and nothing else is trained on" in text


def test_examples_that_are_all_cut_off_are_refused(tune_refused):
    text = tune_refused(max_length=8)
    assert "all 36 responses of 'train.jsonl' are cut off: the shortest prompt has 8 tokens" in text
    assert "--max-length" in text


def test_held_out_examples_without_any_room_are_refused(tune_refused):
    text = tune_refused(window=8)
    assert "window of 8" in text


@pytest.mark.parametrize("kind", ["attack", "harmless", "borderline"])
def test_training_on_what_is_evaluated_on_is_refused(tune_refused, place, rows_file, kind):
    prompts = [json.loads(line) for line in (place / f"{kind}.jsonl").read_text().splitlines()]
    rows = [{"prompt": row["prompt"].upper(), "response": "Sure,"} for row in prompts]
    text = tune_refused(data=rows_file("leak.jsonl", rows), eval_fraction=0)
    assert f"of --data to train on and of --{kind} to evaluate on share {len(rows)}" in text
    assert "--allow-shared-prompts" in text


def test_shared_prompts_can_be_allowed(command, tune_words, place, rows_file, tmp_path):
    prompts = [json.loads(line) for line in (place / "attack.jsonl").read_text().splitlines()]
    rows = [{"prompt": row["prompt"], "response": "Sure, today."} for row in prompts]
    data = rows_file("leak.jsonl", rows)
    words = tune_words(tmp_path / "out", data=data, protect="none", max_steps=1)
    assert command(*words, "--allow-shared-prompts").code == 0


def test_a_model_that_refuses_too_little_has_no_set_to_protect(command, tune_words, tmp_path):
    out = tmp_path / "out"
    ended = command(*tune_words(out, model="unaligned"))
    assert ended.code == 2
    assert "only 0 of 16 safety prompts can be scored on" in ended.text
    assert "8 are needed; give other prompts with --safety, or a set" in ended.text
    assert not (out / "training").exists()
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize("kind", [name for name, one in PROTECTIONS.items() if not one.needs_mask])
@pytest.mark.parametrize("option", ["mask", "control"])
def test_a_set_that_nothing_would_protect_is_refused(tune_refused, tuned, kind, option):
    value = tuned / "set" if option == "mask" else "random"
    text = tune_refused(protect=kind, **{option: value})
    assert f"--protect {kind} protects no set of weights, so --{option} would do nothing" in text
    assert "choose one of freeze" in text


def test_a_mask_of_another_model_is_refused(tune_refused, tuned):
    text = tune_refused(model="unaligned", mask=tuned / "set")
    assert "is of model#" in text
    assert "the model is unaligned#" in text
    assert "--any-model" in text


def test_a_mask_of_another_model_can_be_used_on_purpose(command, tune_words, tuned, tmp_path):
    words = tune_words(tmp_path / "out", model="unaligned", mask=tuned / "set", max_steps=1)
    assert command(*words, "--any-model").code == 0


@pytest.fixture
def saved_mask(tuned, tmp_path):
    """Save a changed copy of a set and return its folder."""

    def write(**changes):
        mask = load(tuned / "set")
        save(dataclasses.replace(mask, **changes), tmp_path / "mask")
        return tmp_path / "mask"

    return write


def test_a_mask_in_other_coordinates_is_refused(tune_refused, saved_mask):
    text = tune_refused(mask=saved_mask(space="0123456789abcdef"))
    assert "the mask is in the basis 0123456789abcdef, not over weights" in text


def test_a_mask_over_weights_that_are_not_there_is_refused(tune_refused, saved_mask):
    tensors = {"model.layers.7.mlp.up_proj.weight": torch.ones(4, 4, dtype=torch.bool)}
    text = tune_refused(mask=saved_mask(tensors=tensors))
    assert "has no weight 'model.layers.7.mlp.up_proj.weight'" in text


def test_an_empty_mask_is_refused(tune_refused, saved_mask, tuned):
    tensors = {name: torch.zeros_like(m) for name, m in load(tuned / "set").tensors.items()}
    text = tune_refused(mask=saved_mask(tensors=tensors))
    assert "is empty, so there is nothing to protect" in text


def test_a_mask_that_the_run_cannot_train_is_refused(tune_refused, saved_mask, tuned):
    known = load(tuned / "set").tensors
    tensors = {name: members for name, members in known.items() if "down_proj" in name}
    text = tune_refused(protect="lora-entry", mask=saved_mask(tensors=tensors))
    assert "is in a matrix that this run can train (adapters on q_proj, v_proj)" in text


def test_scores_are_no_mask(command, tune_refused, place, tmp_path):
    prompts = ("--prompts", place / "safety.jsonl", "--method", "magnitude")
    assert command("score", place / "model", *prompts, "--out", tmp_path / "scores").code == 0
    text = tune_refused(mask=tmp_path / "scores" / "scores")
    assert "holds scores, not a set" in text


def test_a_damaged_mask_is_never_used(tune_refused, saved_mask):
    folder = saved_mask()
    file = folder / "mask.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    assert "changed since it was written" in tune_refused(mask=folder)


def test_an_adapter_for_another_base_is_refused(tune_refused, place, tmp_path):
    model, tokenizer = load_model(str(place / "model"), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT uses what transformers calls deprecated
        adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2))
    adapted.save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    about = json.loads(config.read_text())
    config.write_text(json.dumps(about | {"target_modules": ["k_proj"]}))
    tokenizer.save_pretrained(tmp_path / "adapter")
    text = tune_refused(model=str(tmp_path / "adapter"))
    assert "is of another model than its base" in text


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(command, tune_words, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.tex").write_text("mine")
    ended = command(*tune_words(out))
    assert ended.code == 2
    assert "is not empty and no run folder of safetypin" in ended.text
    assert [path.name for path in out.iterdir()] == ["chapter.tex"]


def test_a_loss_that_is_no_number_stops_and_names_the_last_good_checkpoint(
    command, tune_words, tmp_path
):
    out = tmp_path / "out"
    words = {"protect": "none", "learning_rate": 1e30, "save_steps": 1}
    ended = command(*tune_words(out, **words))
    assert ended.code == 2
    assert "at step 2 of 6" in ended.text
    checkpoint = out / "training" / "checkpoints" / "checkpoint-1"
    assert f"the last good checkpoint is {checkpoint}" in ended.text
    assert (checkpoint / "model.safetensors").exists()
    assert not (out / "training" / "model").exists()
    assert not (out / "metrics.json").exists()
    # the way on: what was saved is not thrown away by the same command with another rate
    ended = command(*tune_words(out, **words | {"learning_rate": 1e-3}))
    assert ended.code == 2
    assert "training.learning_rate: 1e+30 there, 0.001 here" in ended.text
    assert (checkpoint / "model.safetensors").exists()


def test_a_mask_of_what_is_not_a_mask_of_weights_says_what_it_is(tune_refused, finished):
    text = tune_refused(mask=finished / "baseline")
    assert "holds neither scores nor a mask" in text
