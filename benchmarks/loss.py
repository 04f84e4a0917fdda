"""What a training step takes with logits of the tokens to learn alone, beside the model's own loss.

Runs of both kinds alternate in this process; the first step of a run, which makes the optimizer's
state, is left out. Rows are worked sums cut at 96 tokens, of which the request takes two thirds.

    python benchmarks/loss.py [--rounds 2] [--steps 4]
"""

import argparse
import itertools
import statistics
import time
from unittest.mock import patch

from safetypin.intervene import Full, Lora, Training, _trainer, finetune
from safetypin.models import load_model
from safetypin.prompts import load_prompts

PROTECTIONS = {"full fine-tuning": Full, "LoRA": Lora}


def steps(kind: str, training: Training, *, own: bool) -> list[float]:
    """Return the seconds of every step but the first."""
    model, tokenizer = load_model("smollm2-aligned", dtype="float32", device="cpu")
    ended: list[float] = []
    compared = patch.object(_trainer, "is_own_loss", lambda *_: not own)
    with compared:
        finetune(
            model,
            tokenizer,
            load_prompts("gsm8k-100"),
            protect=PROTECTIONS[kind](),
            training=training,
            on_step=lambda *_: ended.append(time.perf_counter()),
        )
    return [after - before for before, after in itertools.pairwise(ended)]


def main() -> None:
    """Print the median step of both, and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    training = Training(
        max_steps=options.steps + 1,
        batch_size=4,
        accumulation=1,
        learning_rate=1e-4,
        max_length=96,
        optimizer="adamw_torch_fused",
    )
    for kind in PROTECTIONS:
        found: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(options.rounds):
            for own, times in found.items():
                times += steps(kind, training, own=own)
        ours, theirs = (statistics.median(found[own]) for own in (False, True))
        print(f"{kind}: {ours:.2f} s a step instead of {theirs:.2f}, {ours / theirs:.2f} times")


if __name__ == "__main__":
    main()
