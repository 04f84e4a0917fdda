"""Claims: what the protections cost beside training without them.

On the embedded model in float32, one optimizer step over a batch of 4 rows of 128 tokens:

- freeze (3 % of the block weights) takes at most 1.05 times the step of full fine-tuning;
- lora-entry takes at most 1.5 times the step of plain LoRA, lora-column at most 1.1 times, with
  adapters on q_proj and v_proj (the default) and, with `--targets`, on others;
- freeze holds at most the mask's values and one bit an entry, and the peak of a whole run grows by
  no more than that and a tenth of it: the resident set's high-water mark, or on a GPU what torch
  ever held, each run in a process of its own that makes the mask and lets it go. The growth is the
  median over pairs of runs. Tensors get pages of their own there (`MALLOC_MMAP_THRESHOLD_`), with
  which equal runs differ by 1 MB. Left to itself glibc keeps freed pieces, such as the mask's, in
  its heap: equal runs differ by 13 MB, and one with a mask of 106 MB took 86 and 157 MB more.

Every kind trains the same rows through `finetune`; the first steps of a run, which make the
optimizer's state, are left out. Full fine-tuning and freeze alternate step by step in one run, and
the ratio is the median over neighbours. The adapters are of different makes, so these runs
alternate whole: a round is one of each, and the ratio is the median over the rounds. On a CPU
the time is that of the process's own work on all threads, not of the clock, so that other programs
do not count; on a GPU it is the clock's.

Run: python benchmarks/tune.py
     python benchmarks/tune.py --targets attn_q,attn_k,attn_v,attn_o,ffn_gate,ffn_up,ffn_down
     python benchmarks/tune.py --shape tiny --steps 3
"""

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from safetypin.artifacts import Prompt, PromptSet, WeightMask
from safetypin.intervene import (
    Freeze,
    Full,
    HeldWeights,
    Lora,
    MaskedLora,
    Protection,
    Training,
    finetune,
)
from safetypin.intervene.protect import Guard
from safetypin.models import block_weights, load_model

BATCH_SIZE, ROW_TOKENS = 4, 128
SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2},
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22},
}
LIMITS = {"lora-entry": 1.5, "lora-column": 1.1}  # times plain LoRA
FREEZE_LIMIT = 1.05  # times full fine-tuning
MEMORY_SLACK = 0.1  # of what freeze may hold: pages are whole, and equal runs differ by 1 MB
Row = tuple[str, str, str, bool]
Make = Callable[[PreTrainedModel], Protection]


def main() -> None:
    """Measure, and print a table of claims."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="measured, of each kind in a round")
    parser.add_argument("--memory-rounds", type=int, default=3, help="of a run with and without")
    parser.add_argument("--share", type=float, default=0.03, help="of the weights, in the mask")
    parser.add_argument("--targets", default="q_proj,v_proj")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--shape", choices=SHAPES, help="a random model instead")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", choices=("none", "freeze"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(json.dumps(peak_memory(options)))
        return
    rows = speed_rows(options) + memory_rows(options)
    for claim, measured, limit, holds in rows:
        print(f"{claim:<44} {measured:>28} {limit:>16}  {'ok' if holds else 'NOT MET'}")
    sys.exit(not all(holds for *_, holds in rows))


def load(options: argparse.Namespace) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model to train and the embedded model's tokenizer."""
    model, tokenizer = load_model("smollm2", dtype="float32", device="cpu")
    if options.shape:
        sizes: dict[str, Any] = SHAPES[options.shape]
        config = LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=16, **sizes)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return model.to(options.device), tokenizer


def examples(tokenizer: PreTrainedTokenizerBase, num_steps: int) -> PromptSet:
    """Return texts of exactly `ROW_TOKENS` tokens, with the begin and the end token."""
    word = tokenizer(" river", add_special_tokens=False)["input_ids"]
    assert len(word) == 1
    text = " river" * (ROW_TOKENS - 2)
    prompts = (Prompt(text="", response=text),) * (BATCH_SIZE * num_steps)
    return PromptSet(name="rivers", prompts=prompts)


def random_mask(model: PreTrainedModel, share: float) -> WeightMask:
    """Return a share of the block weights, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.rand(weight.weight.shape, generator=generator) < share
        for name, weight in block_weights(model).items()
    }
    return WeightMask(tensors=tensors, model_id="benchmark")


def some_columns(model: PreTrainedModel, share: float) -> WeightMask:
    """Return all weights of a share of the input columns, evenly spaced."""
    tensors = {}
    for name, weight in block_weights(model).items():
        members = torch.zeros(weight.weight.shape, dtype=torch.bool)
        members[:, :: round(1 / share)] = True
        tensors[name] = members
    return WeightMask(tensors=tensors, model_id="benchmark")


@dataclasses.dataclass(frozen=True)
class FreezeEveryOther(Freeze):
    """Freeze that puts nothing back after odd steps."""

    def begin(self, model: PreTrainedModel) -> Guard:
        """Keep the masked values and put them back after even steps."""
        guard, steps = super().begin(model), itertools.count(1)

        def after_step() -> None:
            if next(steps) % 2 == 0:
                guard.after_step()

        return dataclasses.replace(guard, after_step=after_step)


def given(protection: Protection) -> Make:
    """Return what makes a protection that is there already."""
    return lambda _: protection


def step_seconds(options: argparse.Namespace, make: Make, num_steps: int) -> list[float]:
    """Return how long each optimizer step of a run takes, but for the first.

    Args:
        options: Of the command line.
        make: Makes the protection, which nothing here keeps: its mask takes a byte a weight.
        num_steps: How many, beside the first.
    """
    model, tokenizer = load(options)
    is_cpu = model.device.type == "cpu"
    times = []

    def note(step: int, num: int, loss: float) -> None:
        if not is_cpu:
            torch.cuda.synchronize()
        times.append(time.process_time() if is_cpu else time.perf_counter())

    finetune(
        model,
        tokenizer,
        examples(tokenizer, num_steps + 1),
        protect=make(model),
        training=Training(
            epochs=1,
            batch_size=BATCH_SIZE,
            accumulation=1,
            learning_rate=1e-5,
            precision=options.precision,
        ),
        on_step=note,
    )
    return [after - before for before, after in itertools.pairwise(times)]


def speed_rows(options: argparse.Namespace) -> list[Row]:
    """Measure the claims about time, and what freeze holds."""
    model, _ = load(options)
    mask, columns = random_mask(model, options.share), some_columns(model, options.share)
    held, allowed = HeldWeights(model, mask.tensors), allowed_bytes(mask)
    row = ("freeze: values and places", f"{held.num_bytes:,} bytes", f"<= {allowed:,}")
    rows: list[Row] = [(*row, held.num_bytes <= allowed)]
    del model, held
    targets = tuple(options.targets.split(","))
    kinds: dict[str, Protection] = {
        "lora": Lora(targets=targets),
        "lora-entry": MaskedLora(mask, "entry", targets=targets),
        "lora-column": MaskedLora(columns, "column", targets=targets),
    }
    times: dict[str, list[float]] = {kind: [] for kind in ("none", "freeze", *kinds)}
    for _ in range(options.rounds):
        # the second step, of the first pair, is left out too
        seconds = step_seconds(options, given(FreezeEveryOther(mask)), 2 * options.steps + 1)[1:]
        times["none"] += seconds[0::2]
        times["freeze"] += seconds[1::2]
        for kind, protection in kinds.items():
            seconds = step_seconds(options, given(protection), options.steps)
            times[kind].append(statistics.median(seconds))
    shown = ", ".join(f"{kind} {statistics.median(found):.3f}" for kind, found in times.items())
    print(
        f"{BATCH_SIZE} x {ROW_TOKENS} tokens a step, {options.share:.1%} of the weights masked, "
        f"adapters on {options.targets}, {torch.get_num_threads()} threads, {options.rounds} "
        f"rounds of {options.steps} steps. Seconds a step: {shown}"
    )
    rows.append(_ratio_row("freeze", "none", FREEZE_LIMIT, times))
    return rows + [_ratio_row(kind, "lora", limit, times) for kind, limit in LIMITS.items()]


def allowed_bytes(mask: WeightMask) -> int:
    """Return the bytes of a mask's float32 values and of its bits."""
    return 4 * mask.num_selected + sum(-(-m.numel() // 8) for m in mask.tensors.values())


def _ratio_row(kind: str, bare: str, limit: float, times: dict[str, list[float]]) -> Row:
    ratios = [mine / theirs for mine, theirs in zip(times[kind], times[bare], strict=True)]
    ratio = statistics.median(ratios)
    shown = f"{ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    return f"{kind} / {bare}", shown, f"<= {limit}", ratio <= limit


def memory_rows(options: argparse.Namespace) -> list[Row]:
    """Measure the memory of freeze, each run in a process of its own."""
    peaks: dict[str, list[int]] = {"none": [], "freeze": []}
    allowed = 0
    for kind in list(peaks) * options.memory_rounds:
        command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", kind]
        # else the heap keeps what was freed, and grows by other amounts in each run
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
        output = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment
        ).stdout
        measured = json.loads(output.splitlines()[-1])
        peaks[kind].append(measured["peak"])
        allowed = measured["allowed"]
    growths = [mine - bare for mine, bare in zip(peaks["freeze"], peaks["none"], strict=True)]
    growth, limit = statistics.median(growths), (1 + MEMORY_SLACK) * allowed
    noise = max(peaks["none"]) - min(peaks["none"])
    print(
        f"Peaks without a protection: {statistics.median(peaks['none']) / 1e6:.0f} MB, between "
        f"equal runs {noise / 1e6:.1f} MB; {options.memory_rounds} rounds of one run each way"
    )
    shown = f"{growth / 1e6:+.1f} MB ({min(growths) / 1e6:+.1f} to {max(growths) / 1e6:+.1f})"
    return [
        ("freeze: growth of the peak", shown, f"<= {limit / 1e6:.1f} MB", growth <= limit),
    ]


def peak_memory(options: argparse.Namespace) -> dict[str, int]:
    """Return the most bytes that a run ever held, and what freeze may add."""
    allowed = 0

    def make(model: PreTrainedModel) -> Protection:
        nonlocal allowed
        mask = random_mask(model, options.share)
        allowed = allowed_bytes(mask)
        return Freeze(mask) if options.memory_of == "freeze" else Full()

    step_seconds(options, make, 1)
    if options.device.startswith("cuda"):
        return {"peak": torch.cuda.max_memory_allocated(), "allowed": allowed}
    return {"peak": _high_water_mark(), "allowed": allowed}


def _high_water_mark() -> int:
    """Return the peak of the resident set in bytes (Linux only).

    Not `getrusage`: its peak still holds that of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("no VmHWM in /proc/self/status")


if __name__ == "__main__":
    main()
