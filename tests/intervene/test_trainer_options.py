"""Options of the training: what each must change in what is computed, and what it must not."""

import dataclasses
import json

import pytest
import torch

from conftest import build
from intervene.finetuning import DATA, SMALL, mask_of, state_of, tokenizer
from safetypin.intervene import Freeze, Full, Lora, MaskedLora, finetune

RATE, NORM = 0.1, 0.01


def tuned(model, protect, out=None, **options):
    training = dataclasses.replace(SMALL, **options)
    return finetune(model, tokenizer(), DATA, protect=protect, training=training, out=out)


def test_the_learning_rate_rises_in_the_warm_up_and_then_falls_as_a_cosine(tmp_path):
    tuned(build("llama"), Full(), tmp_path, max_steps=6, warmup_ratio=0.5, schedule="cosine")
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    # three steps up, then (1 + cos(k pi / 3)) / 2 for k = 0, 1, 2
    shares = [0, 1 / 3, 2 / 3, 1, 0.75, 0.25]
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-2 * s for s in shares])


def size_of_step(protect, max_grad_norm):
    """Return the norm of all changes by one step of SGD."""
    model = build("llama")
    before = state_of(model)
    options = {"optimizer": "sgd", "learning_rate": RATE, "max_steps": 1}
    tuned(model, protect, max_grad_norm=max_grad_norm, **options)
    changes = [value - before[name] for name, value in model.state_dict().items()]
    return float(torch.cat([change.flatten() for change in changes]).norm())


@pytest.mark.parametrize("kind", [Full, Freeze])
def test_clipping_scales_a_step_by_the_norm_of_all_gradients(kind):
    protect = Freeze(mask_of(build("llama"))) if kind is Freeze else Full()
    # SGD steps by the rate times the gradient
    norm = size_of_step(Full(), 0.0) / RATE
    assert norm > 10 * NORM
    free, clipped = size_of_step(protect, 0.0), size_of_step(protect, NORM)
    # under `Freeze` the gradients of masked weights count too; float32 rounds each change
    assert clipped / free == pytest.approx(NORM / norm, rel=1e-3)
    if kind is Full:
        assert clipped == pytest.approx(RATE * NORM, rel=1e-3)


PROTECTIONS = {
    "full": lambda model: Full(),
    "freeze": lambda model: Freeze(mask_of(model)),
    "lora": lambda model: Lora(),
    "lora-entry": lambda model: MaskedLora(mask_of(model)),
}


@pytest.mark.parametrize("name", PROTECTIONS)
def test_recomputing_calls_the_blocks_twice_a_step_and_changes_no_result(name):
    found = []
    for recomputes in (False, True):
        model, calls = build("llama"), []
        protect, embeddings = PROTECTIONS[name](model), model.get_input_embeddings()
        for block in model.model.layers:
            block.mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        given = tuned(model, protect, gradient_checkpointing=recomputes)
        steps = 4 * (2 if recomputes else 1)
        assert len(calls) == 2 * (steps + 2), "2 blocks, 4 steps, 2 passes to compare the loss"
        assert not model.is_activation_checkpointing
        assert not embeddings._forward_hooks, "transformers puts one there"
        found.append(given.state_dict())
    plain, recomputed = found
    adapters = [key for key in plain if "lora_B" in key]
    assert len(adapters) == (4 if "lora" in name else 0)
    # B begins at zero: without gradients it would still be there
    assert all(recomputed[key].any() for key in adapters)
    for key, value in plain.items():
        torch.testing.assert_close(recomputed[key], value)
