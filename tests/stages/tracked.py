"""A tiny model, what a training could have left of it, and prompts: for the tests of `track`."""

import json
import random
import shutil
import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from end_to_end import tiny
from safetypin.artifacts import RunRecord, save, write_json
from safetypin.models import load_model, model_id
from safetypin.scores import magnitude
from safetypin.select import top_fraction
from safetypin.stages import make_track_config

SIZES = {"safety": 10, "utility": 10, "attack": 6, "harmless": 3, "borderline": 3}
STEPS = (5, 10)
Q = 0.05


def make_place(folder):
    """Write `model`, its `checkpoints` of two steps, an `adapter` and the prompt files."""
    tokenizer = tiny.make_tokenizer()
    model = tiny.make_untrained(tokenizer).eval()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for step in STEPS:
        move(model, seed=step, size=0.002)
        save_checkpoint(model, folder / "checkpoints" / f"checkpoint-{step}", step)
    make_adapter(folder / "model", folder / "adapter")
    write_prompts(folder)
    return folder


def move(model, *, seed, size):
    """Add random changes to every matrix of the blocks."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight += size * torch.randn(weight.shape, generator=generator)


def save_checkpoint(model, folder, step):
    """Write what the Trainer would, but for the optimizer; without tokenizer."""
    model.save_pretrained(folder)
    write_json(folder / "trainer_state.json", {"global_step": step, "max_steps": STEPS[-1]})


def make_adapter(base, folder):
    model = LlamaForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    settings = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks the model for an old name
        adapted = get_peft_model(model, settings)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    adapted.save_pretrained(folder)


def write_prompts(folder):
    generator = random.Random(1)
    answers = {"safety": tiny.REFUSAL, "utility": tiny.ANSWER}
    for kind, size in SIZES.items():
        verb = "hurt" if kind in ("safety", "attack") else "greet"
        rows = [{"prompt": tiny.request(verb, generator)} for _ in range(size)]
        if kind in answers:
            rows = [{**row, "response": answers[kind]} for row in rows]
        write(folder / f"{kind}.jsonl", rows)
    write(folder / "text.jsonl", [{"prompt": "", "response": tiny.TEXT}] * 2)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def values(place):
    """The settings of a small track, as options or TOML give them."""
    return {
        **{kind: str(place / f"{kind}.jsonl") for kind in (*SIZES, "text")},
        **{f"num_{kind}": size for kind, size in SIZES.items()},
        "num_text": 2,
        "max_new_tokens": 3,
        "answer_batch_size": 6,
        "q": Q,
        "num_permutations": 39,
        "device": "cpu",
    }


def settings(place, run="checkpoints", **changes):
    """Return the config of a small track, with changes."""
    given = {"reference": str(place / "model"), **values(place), **changes}
    return make_track_config(str(place / run), None, None, given)


def as_tune(place, folder, *, protect="freeze", control=None):
    """Return a folder as a finished run of `tune` leaves it, which held `folder/set`.

    The numbers of its evaluations are made up; only what `track` reads is there.
    """
    model, _ = load_model(str(place / "model"), device="cpu")
    mask = top_fraction(magnitude(model), 0.03)
    save(mask, folder / "set")
    tuned = LlamaForCausalLM.from_pretrained(place / "model")
    move(tuned, seed=3, size=0.002)
    with torch.no_grad():
        for name, members in mask.tensors.items():
            weight = tuned.get_parameter(name)
            weight.copy_(torch.where(members, model.get_parameter(name), weight))
    tuned.save_pretrained(folder / "training" / "model")
    shutil.copy(place / "model" / "tokenizer.json", folder / "training" / "model")
    shutil.copy(place / "model" / "tokenizer_config.json", folder / "training" / "model")
    after, _ = load_model(str(folder / "training" / "model"), device="cpu")
    (folder / "after").mkdir()
    RunRecord(
        stage="after", inputs={"model_id": model_id(after)}, result={}, files={}, seconds=0.0,
        environment={},
    ).write(folder / "after")  # fmt: skip
    write_json(folder / "metrics.json", tune_numbers(place, model, protect, control))
    write_json(folder / "examples.json", {"rows": []})
    return folder


def tune_numbers(place, model, protect, control):
    rate = {"value": 0.0, "interval": [0.0, 0.4], "num_hits": 0, "num_judged": 6, "num_unjudged": 0}
    change = {"value": 0.0, "interval": [-0.3, 0.3], "p_value": 1.0, "num_pairs": 6}
    names = ("asr", "refusal", "degenerate", "harmless_refused", "harmless_degenerate",
             "borderline_refused")  # fmt: skip
    side = dict.fromkeys(names, rate) | {
        "perplexity": {"value": 1.5, "num_tokens": 20, "num_texts": 2},
        "task": None,
        "destroyed": None,
    }
    paired = ("asr", "over_refusal", "borderline_refusal", "degenerate")
    return {
        "schema": 1,
        "kind": "tune",
        "settings": {"dtype": "auto"},
        "model": {"name": str(place / "model"), "id": model_id(model)},
        "judge": {"name": "phrases", "precision": None, "recall": None, "validated_on": None},
        "prompts": {"attack": {"source": "a", "fingerprint": "f", "num_prompts": 6}},
        "protect": {"kind": protect},
        "training": {"num_steps": STEPS[-1]},
        "set": {"control": control, "name": None},
        "before": side,
        "after": side,
        "paired": dict.fromkeys(paired, change),
        "perplexity_ratio": 1.0,
    }
