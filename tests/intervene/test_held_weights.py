import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import build, examples, make_batches
from intervene.finetuning import assert_changed_outside, assert_kept_inside, bits, mask_of, state_of
from safetypin.artifacts import UserError
from safetypin.intervene import HeldWeights
from safetypin.intervene.protect import _held

UP = "model.layers.0.mlp.up_proj.weight"
OPTIMIZERS = {
    "sgd with momentum": lambda parameters: torch.optim.SGD(
        parameters, lr=1e-2, momentum=0.9, weight_decay=0.1
    ),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, weight_decay=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1),
    "adamw, fused": lambda parameters: torch.optim.AdamW(
        parameters, lr=1e-2, weight_decay=0.1, fused=True
    ),
}
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
each_precision = pytest.mark.parametrize("precision", ["fp32", "bf16 autocast"])


def step(model, optimizer, precision, seed):
    (batch,) = make_batches(examples(seed=seed))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32"):
        loss = model(batch.input_ids, labels=batch.labels).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def layer(weight):
    module = torch.nn.Module()
    module.register_parameter("weight", torch.nn.Parameter(weight))
    return module


@each_optimizer
@each_precision
def test_weights_held_after_five_free_steps_never_move_again(make, precision):
    model = build("llama")
    optimizer = make(model.parameters())
    for seed in range(5):
        step(model, optimizer, precision, seed)
    before, mask = state_of(model), mask_of(model)
    HeldWeights(model, mask.tensors).hold(optimizer)
    for seed in range(5, 8):
        step(model, optimizer, precision, seed)
        assert_kept_inside(model, before, mask)
    assert_changed_outside(model, before, mask)


@each_optimizer
def test_a_gradient_hook_would_not_have_held_them(make):
    model = build("llama")
    optimizer = make(model.parameters())
    for seed in range(5):
        step(model, optimizer, "fp32", seed)
    before, mask = state_of(model), mask_of(model)
    for name, members in mask.tensors.items():
        model.get_parameter(name).register_hook(lambda g, m=members: g.masked_fill(m, 0))
    step(model, optimizer, "fp32", 5)
    with pytest.raises(AssertionError):
        assert_kept_inside(model, before, mask)


def test_weights_are_free_again_once_the_handle_is_removed():
    model = build("llama")
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    before, mask = state_of(model), mask_of(model)
    held = HeldWeights(model, mask.tensors)
    handle = held.hold(optimizer)
    step(model, optimizer, "fp32", 0)
    assert held.are_in_place()
    handle.remove()
    step(model, optimizer, "fp32", 1)
    assert not held.are_in_place()
    held.restore()
    assert_kept_inside(model, before, mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("share", [0.0005, 0.01, 0.06, 0.07, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(300, 500), (7, 3), (4, 30, 50)])
def test_every_bit_comes_back_at_every_density(share, shape, dtype, monkeypatch):
    monkeypatch.setattr(_held, "CHUNK", 1 << 16)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).to(dtype)
    weight.view(-1)[:4] = torch.tensor([math.nan, math.inf, -0.0, 1e-45]).to(dtype)
    members = torch.rand(shape, generator=generator) < share
    members.view(-1)[:5] = True
    module = layer(weight.clone())
    held = HeldWeights(module, {"weight": members})
    with torch.no_grad():
        module.weight.fill_(7.0)
    assert not held.are_in_place()
    held.restore()
    assert held.are_in_place()
    assert torch.equal(bits(module.weight[members]), bits(weight[members]))
    assert (module.weight[~members] == 7).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400_000), st.floats(0, 1), st.integers(0, 9))
def test_at_most_the_values_and_one_bit_an_entry_are_kept(count, share, seed):
    generator = torch.Generator().manual_seed(seed)
    members = torch.rand(count, generator=generator) < share
    held = HeldWeights(layer(torch.zeros(count)), {"weight": members})
    assert held.num_weights == int(members.sum())
    assert held.num_bytes <= 4 * held.num_weights + math.ceil(count / 8)


def test_places_beyond_a_block_are_found_with_one_member_in_it():
    members = torch.zeros(3 * _held.BLOCK + 5, dtype=torch.bool)
    members[[0, _held.BLOCK - 1, 2 * _held.BLOCK, 3 * _held.BLOCK + 4]] = True
    weight = torch.arange(members.numel(), dtype=torch.float32)
    module = layer(weight.clone())
    held = HeldWeights(module, {"weight": members})
    with torch.no_grad():
        module.weight.zero_()
    held.restore()
    assert torch.equal(module.weight, torch.where(members, weight, 0))
    assert held.num_bytes < 50


def test_an_empty_mask_holds_nothing(tiny_llama):
    held = HeldWeights(tiny_llama, mask_of(tiny_llama, [UP], share=0).tensors)
    held.restore()
    assert (held.num_weights, held.num_bytes, held.are_in_place()) == (0, 0, True)


def test_what_is_held_is_measured_in_the_model_as_it_is():
    members = torch.tensor([True, False, True])
    module = layer(torch.tensor([1.0, 2.0, 3.0]))
    held = HeldWeights(module, {"weight": members})
    with torch.no_grad():
        module.weight[1] = 7.0
    assert held.measure() == {"held": 2, "in_place": True}
    with torch.no_grad():
        module.weight[0] = 7.0
    words = "held weights in 1 matrices are not what they were before the training, first in weight"
    with pytest.raises(UserError, match=words):
        held.measure()
    held.restore()
    # what was put back is not in the model any more
    module.weight = torch.nn.Parameter(torch.tensor([7.0, 7.0, 7.0]))
    assert held.are_in_place()
    with pytest.raises(UserError, match=words):
        held.measure()


def test_weights_sharded_over_two_processes_are_held_in_each():
    script = Path(__file__).with_name("sharded.py")
    answer = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=300
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    told = sorted(answer.stdout.split("\n")[:-1])
    assert told == ["process 0 holds its part", "process 1 holds its part"]
