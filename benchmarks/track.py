"""Claim: the drift of a checkpoint of the embedded model takes well under a minute on one core.

Seconds are of the processor, so that other work on the machine does not count. Below them stands
what changes show that know nothing of the sets: the default measures nothing, the papers' a lot.

Run: OMP_NUM_THREADS=1 python benchmarks/track.py
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from safetypin import load_model, magnitude, matched_random, random_scores, top_fraction
from safetypin.artifacts import WeightMask
from safetypin.models import adapter_folder, merge_adapter
from safetypin.track import MEASURES, Checkpoint, checkpoints, drift, null_model, score_dynamics


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print the processor's seconds of a block."""
    start = time.process_time()
    yield
    print(f"{what:<58}{time.process_time() - start:6.1f} s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--permutations", type=int, default=999)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, _ = load_model("smollm2", device="cpu")
    groups = make_groups(model)
    sizes = ", ".join(f"{name} {mask.num_selected:,}" for name, mask in groups.items())
    print(f"{next(iter(groups.values())).num_weights:,} weights; groups: {sizes}")
    with tempfile.TemporaryDirectory() as folder:
        tuned, _ = load_model("smollm2", device="cpu")
        merge_adapter(tuned, adapter_folder()).save_pretrained(folder)
        del tuned
        (full,) = checkpoints(Path(folder))
        tried: dict[str, Path | Checkpoint] = {
            "an adapter on every matrix": adapter_folder(),
            "a full model": full,
        }
        for name, one in tried.items():
            with timed(f"drift of {name}, {len(groups)} groups, {options.permutations} orders"):
                table = drift(model, one, groups, num_permutations=options.permutations)
        for group in groups:
            row = table.find(group, "rms_units")
            print(f"  {group:<10} {row.value:.6f}, expected {row.expected:.6f}, p {row.p_value}")
    before, after = (random_scores(model, seed=seed) for seed in (1, 2))
    with timed(f"score dynamics of {len(groups)} groups"):
        score_dynamics(before, after, groups)
    for rank in (None, 8):
        table = drift(model, null_model(model, 1e-4, rank=rank), groups)
        print(f"changes that know nothing, sd 1e-4, rank {rank}: value, times as expected, p")
        for measure in MEASURES:
            for group in groups:
                row = table.find(group, measure)
                print(f"  {measure:<16}{group:<10}{row.value:.4e}  {row.ratio:.4f}  {row.p_value}")


def make_groups(model: torch.nn.Module) -> dict[str, WeightMask]:
    """Return sets as a score gives them: the largest 1 %, and random ones of the same size."""
    top = top_fraction(magnitude(model), 0.01)  # type: ignore[arg-type]
    other = top_fraction(random_scores(model, seed=3), 0.01)  # type: ignore[arg-type]
    return {
        "top 1 %": top,
        "random": matched_random(top, model, seed=0),
        "matched": matched_random(top, model, seed=0, match="magnitude"),
        "another": other,
        "3 %": top_fraction(random_scores(model, seed=4), 0.03),  # type: ignore[arg-type]
    }


if __name__ == "__main__":
    main()
