"""What a guard costs: features against bare forward passes, fits, one prompt.

Every ratio is of two things measured alternately in this process.

    python benchmarks/guard.py [--model smollm2] [--prompts 64] [--rounds 3]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from safetypin.artifacts import Prompt
from safetypin.models import load_model, num_layers
from safetypin.passes import forward, input_device, passes
from safetypin.predict import (
    CLASSIFIERS,
    Features,
    Reading,
    encode_prompts,
    fit_linear,
    span_of,
    write_features,
)
from safetypin.predict._features import MAX_TOKENS, _batches
from safetypin.prompts import load_prompts


def seconds(run: Callable[[], object]) -> float:
    """Return the CPU time of a call: other jobs on the machine do not count."""
    start = time.process_time()
    run()
    return time.process_time() - start


def requests(count: int) -> list[str]:
    """Return so many prompts, all of them others: the built-in ones, then again with a number."""
    given = [prompt.text for prompt in load_prompts("builtin-harmful")]
    rounds = (divmod(place, len(given)) for place in range(count))
    return [f"{given[i]} ({again + 1})" if again else given[i] for again, i in rounds]


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model, tokenizer = load_model(options.model)
    prompts = [Prompt(text=text) for text in requests(options.prompts)]
    rows = encode_prompts(model, tokenizer, prompts, Reading())
    device = input_device(model)

    def bare(rows: list[list[int]]) -> None:
        order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), index))
        with torch.inference_mode():
            for batch in passes(_batches(rows, order), device, MAX_TOKENS[device.type]):
                forward(model, batch, logits_to_keep=1)

    with tempfile.TemporaryDirectory() as folder:

        def cached(rows: list[list[int]]) -> Features:
            path = Path(folder) / "features.safetensors"
            return write_features(path, model, rows, Reading(), model_id="m", bos=None)

        bare(rows[:32])
        cached(rows[:32])
        ratios = [
            seconds(partial(cached, rows)) / seconds(partial(bare, rows))
            for _ in range(options.rounds)
        ]
    print(
        f"{num_layers(model)} layers, {len(rows):,} prompts, {sum(map(len, rows)):,} tokens: "
        f"features {statistics.median(ratios):.3f} times the bare passes ({min(ratios):.3f} to "
        f"{max(ratios):.3f}; limit 1.1)"
    )
    random = np.random.default_rng(0)
    features = random.normal(size=(3500, 46_080)).astype(np.float32)
    labels = (np.arange(3500) % 2).tolist()
    groups = [str(i) for i in range(3500)]
    start = time.perf_counter()
    span = span_of(features)
    fit_linear(span, labels, groups)
    print(f"fit of 3,500 prompts x 46,080 units: {time.perf_counter() - start:.0f} s (limit 60)")
    for pca in (False, True):
        for classifier in CLASSIFIERS:
            fit_linear(span, labels, groups, classifier=classifier, pca=pca)
    print(f"and all four of its rows in the table: {time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
