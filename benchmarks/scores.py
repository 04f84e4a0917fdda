"""Claims: wanda costs at most a forward pass, snip at most a forward and backward pass.

On the embedded model in float32, 128 examples of prompt and response, batches of 8, 2 threads:

- wanda takes at most 1.05 times a bare forward pass of the same batches;
- snip takes at most 1.05 times a bare forward and backward pass of them;
- snip is at least 20 times faster than the layer by layer way of the published code (for each
  block: every example by itself, gradients of that block alone), which is measured on a few
  examples and blocks and extrapolated;
- peak memory of wanda is at most the model + 10 %, of snip the model and one float32 a scored
  weight + 15 %, and of a whole audit's scoring with either (both halves of the prompts, their tops,
  the files) the same as of snip. Each runs in a process of its own; its peak is the resident set's
  high-water mark, loading included, less what else is resident once the model is loaded
  (libraries, tokenizer).

Each round runs half of the bare passes, then ours over all examples, then the other half, so that
a slow spell hits both; a ratio is the median over the rounds.

Run: python benchmarks/scores.py
     python benchmarks/scores.py --device cuda --shape llama-2-7b
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from safetypin.artifacts import Batch, Prompt, PromptSet
from safetypin.models import block_weights, blocks, load_model
from safetypin.prompts import batches
from safetypin.scores import snip, wanda
from safetypin.stages import Reporter, Scoring, score_halves

NUM_EXAMPLES = 128
RESPONSE_WORDS = 24
SHAPES = {
    "llama-2-7b": {
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "tiny": {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
}
# what is measured, against what of the model and its scores, and what it may take of it
MEMORY = {
    "wanda": ("model", 1.10),
    "snip": ("model + scores", 1.15),
    "audit with wanda": ("model + scores", 1.15),
    "audit with snip": ("model + scores", 1.15),
}
Row = tuple[str, str, str, bool]
Way = Callable[[PreTrainedModel, list[Batch]], object]


def main() -> None:
    """Measure, and print a table of claims."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--shape", choices=SHAPES, help="score a random bfloat16 model instead")
    parser.add_argument("--device", default="cpu", help="for --shape")
    parser.add_argument("--memory-of", choices=MEMORY, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(json.dumps(peak_memory(options.memory_of, options.batch_size)))
    elif options.shape:
        score_shape(options.shape, torch.device(options.device), options.batch_size)
    else:
        rows = speed_rows(options.batch_size, options.rounds)
        rows += memory_rows(options.batch_size, options.threads)
        for claim, measured, limit, holds in rows:
            print(f"{claim:<44} {measured:>28} {limit:>16}  {'ok' if holds else 'NOT MET'}")
        sys.exit(not all(holds for *_, holds in rows))


def examples() -> list[Prompt]:
    """Return harmless requests, each with the first words of a text as its response."""
    data = resources.files("safetypin") / "data"
    texts, requests = (
        [json.loads(line) for line in (data / name).read_text().splitlines()]
        for name in ("text.jsonl", "harmless.jsonl")
    )
    responses = [" ".join(text["response"].split()[:RESPONSE_WORDS]) for text in texts]
    return [
        Prompt(text=request["prompt"], response=responses[index % len(responses)])
        for index, request in enumerate(requests[:NUM_EXAMPLES])
    ]


def load(batch_size: int) -> tuple[PreTrainedModel, list[Batch]]:
    """Return the embedded model and the batches."""
    model, tokenizer = load_model("smollm2", dtype="float32", device="cpu")
    return model, batches(examples(), tokenizer, batch_size=batch_size)


@torch.no_grad()
def bare_forward(model: PreTrainedModel, parts: list[Batch]) -> None:
    """Run the model on the batches."""
    for batch in parts:
        model(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)


def bare_backward(model: PreTrainedModel, parts: list[Batch]) -> None:
    """Run the model forward and backward, with the gradients of all weights."""
    for batch in parts:
        model.zero_grad()
        output = model(
            batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
            use_cache=False,
        )
        output.loss.backward()
    model.zero_grad()


def layer_by_layer(model: PreTrainedModel, parts: list[Batch]) -> float:
    """Return the seconds the published way takes for one block and example, on average.

    Blocks are spread evenly, because a backward pass to an early block takes longer.
    """
    layers, weights = blocks(model), block_weights(model)
    chosen = range(len(layers) // 10, len(layers), len(layers) // 5)
    rows = [row for batch in parts for row in _single_examples(batch)][:4]
    model.requires_grad_(False)
    seconds = 0.0
    for layer in chosen:
        own = [weight.weight for weight in weights.values() if weight.layer == layer]
        saved = [torch.zeros_like(weight) for weight in own]
        for weight in own:
            weight.requires_grad_(True)
        start = time.perf_counter()
        for ids, labels in rows:
            model.zero_grad()
            model(ids, labels=labels, use_cache=False).loss.backward()
            for total, weight in zip(saved, own, strict=True):
                assert weight.grad is not None
                total += weight.grad.abs()
        seconds += time.perf_counter() - start
        for weight in own:
            weight.grad = None
            weight.requires_grad_(False)
    model.requires_grad_(True)
    return seconds / (len(chosen) * len(rows))


def _single_examples(batch: Batch) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for ids, labels, mask in zip(batch.input_ids, batch.labels, batch.attention_mask, strict=True):
        yield ids[mask == 1][None], labels[mask == 1][None]


def seconds_of(way: Way, model: PreTrainedModel, tokens: list[Batch]) -> float:
    """Return how long one way takes over the batches."""
    start = time.perf_counter()
    way(model, tokens)
    return time.perf_counter() - start


def speed_rows(batch_size: int, num_rounds: int) -> list[Row]:
    """Measure the claims about time."""
    model, tokens = load(batch_size)
    num_tokens = sum(int(batch.attention_mask.sum()) for batch in tokens)
    ways: dict[str, Way] = {
        "forward": bare_forward,
        "wanda": wanda,
        "backward": bare_backward,
        "snip": snip,
    }
    for way in ways.values():
        way(model, tokens[:1])  # first calls set up threads and kernels
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(num_rounds):
        for bare, ours in (("forward", "wanda"), ("backward", "snip")):
            first = seconds_of(ways[bare], model, tokens[::2])
            times[ours].append(seconds_of(ways[ours], model, tokens))
            times[bare].append(first + seconds_of(ways[bare], model, tokens[1::2]))
    per_block = layer_by_layer(model, tokens)
    published = per_block * len(blocks(model)) * NUM_EXAMPLES
    median = {name: statistics.median(values) for name, values in times.items()}
    shown = ", ".join(f"{name} {seconds:.1f}" for name, seconds in median.items())
    print(
        f"{NUM_EXAMPLES} examples of {num_tokens / NUM_EXAMPLES:.0f} tokens, batches of "
        f"{batch_size}, {torch.get_num_threads()} threads, {num_rounds} rounds. Seconds: {shown}; "
        f"layer by layer {published:.0f}, extrapolated from {per_block:.3f} a block and example"
    )
    return [
        _ratio_row("wanda / forward", times["wanda"], times["forward"]),
        _ratio_row("snip / forward and backward", times["snip"], times["backward"]),
        (
            "layer by layer / snip",
            f"{published / median['snip']:.1f}",
            ">= 20",
            published >= 20 * median["snip"],
        ),
    ]


def _ratio_row(claim: str, ours: list[float], bare: list[float]) -> Row:
    ratios = [mine / theirs for mine, theirs in zip(ours, bare, strict=True)]
    ratio = statistics.median(ratios)
    shown = f"{ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    return claim, shown, "<= 1.05", ratio <= 1.05


def memory_rows(batch_size: int, threads: int) -> list[Row]:
    """Measure the claims about memory, each in a process of its own."""
    rows: list[Row] = []
    for name, (what, allowance) in MEMORY.items():
        command = [sys.executable, __file__, "--memory-of", name, "--threads", str(threads)]
        command += ["--batch-size", str(batch_size)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        measured = json.loads(output.splitlines()[-1])
        base = measured["model"] + (0 if what == "model" else measured["scores"])
        shown = f"{measured['peak'] / 1e6:.0f} MB ({measured['peak'] / base - 1:+.1%})"
        limit = f"<= {allowance * base / 1e6:.0f} MB"
        rows.append((f"{name}: peak, {what}", shown, limit, measured["peak"] <= allowance * base))
    return rows


def peak_memory(name: str, batch_size: int) -> dict[str, int]:
    """Return the bytes of the model, of its float32 scores, and of this process's peak."""
    model, tokenizer = load_model("smollm2", dtype="float32", device="cpu")
    chosen = examples()[::4]
    for parameter in model.parameters():
        parameter.sum()  # mapped from the file until they are read
    model_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    others = _memory("VmRSS") - model_bytes
    if name.startswith("audit"):
        how = Scoring(method=name.rpartition(" ")[2], batch_size=batch_size)
        prompts = PromptSet(name="benchmark", prompts=tuple(chosen))
        quiet = Reporter(quiet=True)
        with tempfile.TemporaryDirectory() as folder:
            score_halves(
                Path(folder), model, tokenizer, prompts, how, fraction=0.05, reporter=quiet
            )
    else:
        tokens = batches(chosen, tokenizer, batch_size=batch_size)
        (snip if name == "snip" else wanda)(model, tokens)
    return {
        "peak": _memory("VmHWM") - others,
        "model": model_bytes,
        "scores": sum(4 * weight.weight.numel() for weight in block_weights(model).values()),
    }


def _memory(field: str) -> int:
    """Return a field of /proc/self/status in bytes (Linux only).

    Not `getrusage`: its peak still holds that of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"no {field} in /proc/self/status")


def score_shape(shape: str, device: torch.device, batch_size: int) -> None:
    """Score a random bfloat16 Llama over 128 examples of 175 tokens, 40 of them response."""
    config = LlamaConfig(**SHAPES[shape])  # type: ignore[arg-type]
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, config.vocab_size, (NUM_EXAMPLES, 175), generator=generator)
    counted = (torch.arange(175) >= 135).expand_as(ids)
    mask = torch.ones_like(ids)
    tokens = [
        Batch(*(part[first : first + batch_size] for part in (ids, mask, counted)))
        for first in range(0, NUM_EXAMPLES, batch_size)
    ]
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    snip(model, tokens)
    if is_cuda:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) if is_cuda else _memory("VmHWM")
    print(
        f"snip, {shape} in bfloat16 on {device}, {NUM_EXAMPLES} x 175 tokens: "
        f"{seconds:.1f} s, {peak / 1e9:.1f} GB"
    )


if __name__ == "__main__":
    main()
