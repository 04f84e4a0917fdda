"""What an evaluation costs beside answering each kind of prompts by itself, and a load its merge.

Both sides of a ratio are measured alternately in this process.

    python benchmarks/answers.py [--model smollm2-aligned] [--rounds 3]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from safetypin.models import load_model
from safetypin.prompts import load_prompts
from safetypin.stages import Reporter
from safetypin.stages._evaluate import Suite, answer, answer_suite

# harmful, harmless, borderline: of the experiments on WaRP, Figure 2 and frozen weights
SIZES = ((30, 8, 4), (30, 10, 8), (40, 16, 16))
SOURCES = {
    "harmful": "builtin-harmful:evaluation",
    "harmless": "builtin-harmless:evaluation",
    "borderline": "builtin-borderline",
}
NEW_TOKENS = 20


def seconds(run: Callable[[], object]) -> float:
    """Return the time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(name: str, ours: Callable[[], object], plain: Callable[[], object], num: int) -> None:
    """Print the median times of two calls, and of their ratio."""
    pairs = [(seconds(ours), seconds(plain)) for _ in range(num)]
    ratios = [one / other for one, other in pairs]
    one, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        f"{name}: {one:.2f} s instead of {other:.2f}, {statistics.median(ratios):.2f} times "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2-aligned")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    def load() -> None:
        load_model(options.model, dtype="float32", device="cpu")

    def load_mapped() -> None:
        with patch("safetypin.models._adapter._copy_from_file"):
            load()

    load()
    compare("load, weights copied from their file", load, load_mapped, options.rounds)
    model, tokenizer = load_model(options.model, dtype="float32", device="cpu")
    reporter = Reporter(quiet=True)
    for sizes in SIZES:
        kinds = zip(SOURCES.items(), sizes, strict=True)
        prompts = {kind: load_prompts(source).shuffled(0).take(n) for (kind, source), n in kinds}
        suite = Suite(prompts=prompts, text=None, max_new_tokens=NEW_TOKENS, batch_size=sum(sizes))

        def shared(suite: Suite = suite) -> None:
            with tempfile.TemporaryDirectory() as folder:
                answer_suite(Path(folder), model, tokenizer, suite, reporter=reporter)

        def by_kind(suite: Suite = suite) -> None:
            with tempfile.TemporaryDirectory() as folder:
                for kind, asked in suite.prompts.items():
                    answer(
                        Path(folder), kind, model, tokenizer, asked, reporter=reporter,
                        max_new_tokens=suite.max_new_tokens, batch_size=suite.batch_size,
                    )  # fmt: skip

        compare(
            f"{' + '.join(map(str, sizes))} prompts in one batch", shared, by_kind, options.rounds
        )


if __name__ == "__main__":
    main()
