"""Hold weights that `fully_shard` divides over two gloo processes; each tells that it did.

Run: python tests/intervene/sharded.py
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

NUM_PROCESSES = 2
TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "src")]


def full_state(model):
    """Return every weight as a whole, gathered from the processes."""
    return {
        name: value.full_tensor().clone() if hasattr(value, "full_tensor") else value.clone()
        for name, value in model.state_dict().items()
    }


def train(model, optimizer, seed):
    tokens = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(seed))
    loss = model(tokens, labels=tokens).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def work(rank, meeting_point):
    from transformers import LlamaConfig, LlamaForCausalLM

    from conftest import GROUPED
    from intervene.finetuning import bits, mask_of
    from safetypin.intervene import HeldWeights

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=NUM_PROCESSES
    )
    torch.manual_seed(0)
    # 23 rows make shards of unequal size
    model = LlamaForCausalLM(LlamaConfig(**GROUPED | {"intermediate_size": 23}))
    mask = mask_of(model)
    mesh = init_device_mesh("cpu", (NUM_PROCESSES,))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for seed in range(5):
        train(model, optimizer, seed)
    before = full_state(model)
    held = HeldWeights(model, mask.tensors)
    total = torch.tensor(held.num_weights)
    dist.all_reduce(total)
    assert int(total) == mask.num_selected, "each member is held by one process"
    assert 0 < held.num_weights < mask.num_selected
    held.hold(optimizer)
    for seed in range(5, 8):
        train(model, optimizer, seed)
    after = full_state(model)
    for name, members in mask.tensors.items():
        assert torch.equal(bits(after[name][members]), bits(before[name][members])), name
        moved = after[name] != before[name]
        assert moved[~members].float().mean() > 0.5, name
    assert held.are_in_place()
    sys.stdout.write(f"process {rank} holds its part\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (f"{folder}/meet",), nprocs=NUM_PROCESSES)
