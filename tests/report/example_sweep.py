"""Builds metrics.json of the shape that a sweep writes, for the tests."""

from typing import Any

from example_findings import about
from example_metrics import change, example_metrics, overlap, rate


def attacked(hits: int, judged: int) -> dict[str, Any]:
    interval = [max(0.0, hits / judged - 0.2), min(1.0, hits / judged + 0.2)]
    mean = rate(2 * hits, 2 * judged) | {"interval": interval}
    return {
        "mean": mean,
        "mean_as_judged": mean,
        "also_judged": {"papers": rate(judged // 2, 2 * judged)},
        "any_of_n": rate(hits, judged),
        "num_variants": 2,
    }


def sweep_cell(
    method: str, size: str, hits: int, ratio: float | None, **changes: Any
) -> dict[str, Any]:
    """Return a cell whose model complies with `hits` of 40 prompts."""
    destroyed = ratio is None or ratio > 10
    return {
        "id": f"{method}-{size}",
        "method": method,
        "size": size,
        "seed": None,
        "like": None,
        "removed": {"unit": "weights", "count": 60, "total": 10_000, "share": 0.006},
        "destroyed": destroyed,
        "why_destroyed": "60% of the answers to harmful prompts are degenerate"
        if destroyed
        else None,
        "asr": None if destroyed else rate(hits, 40),
        "asr_as_judged": rate(hits, 40),
        "asr_change": None if destroyed else change(hits, 40, 1),
        "degenerate": rate(36 if destroyed else 1, 40),
        "harmless_refused": rate(0, 12),
        "borderline_refused": rate(1, 12),
        "also_judged": {"papers": rate(0 if destroyed else hits, 40)},
        "attacks": {
            "decoding": attacked(36, 40) | {"mean": None, "any_of_n": None}
            if destroyed
            else attacked(hits, 40)
        },
        "zero_shot": {"bbq-300": {"accuracy": rate(40, 100)}},
        "perplexity_ratio": ratio,
        "known": None,
        **changes,
    }


def example_sweep() -> dict[str, Any]:
    """Return a realistic metrics.json; callers change what they test."""
    base = example_metrics()
    cells = [
        sweep_cell("difference", "q0.01-p0.01", 34, 1.2, known={
            "row": "1/1", "share": 0.0063, "vanilla": 0.1, "suffix": 0.97, "decoding": 0.86,
            "accuracy": 0.54,
        }),
        sweep_cell("difference", "q0.05-p0.05", 38, 3.5),
        sweep_cell("random", "q0.01-p0.01-s0", 2, 1.0, seed=0, like="difference-q0.01-p0.01"),
        sweep_cell("random", "q0.01-p0.01-s1", 3, 1.1, seed=1, like="difference-q0.01-p0.01"),
        sweep_cell("top", "0.01", 0, None),
        sweep_cell("projection", "u10%-s20%", 12, 1.4, removed={
            "unit": "ranks", "count": 20, "total": 100, "share": 0.2,
        }),
    ]  # fmt: skip
    kinds = {"difference": "difference", "random": "random", "top": "share"}
    methods = [
        {"name": name, "about": f"about {name}", "kind": kind, "scorer": "snip",
         "like": "difference" if kind == "random" else None}
        for name, kind in (kinds | {"projection": "projection"}).items()
    ]  # fmt: skip
    return about("run figure2.toml") | {
        "kind": "sweep",
        "title": "What takes safety out",
        "about": "Every method at every size.",
        "scale": "small",
        "model": base["model"],
        "judge": base["judge"],
        "baseline": base["baseline"] | {
            "attacks": {"decoding": attacked(2, 40)},
            "also_judged": {"papers": rate(1, 40)},
            "zero_shot": {"bbq-300": {"accuracy": rate(41, 100)}},
        },
        "sets": {
            "overlap": {"snip": overlap(0.05)},
            "between": {"jaccard": [[1.0, 0.25], [0.25, 1.0]]},
            "of": {"difference": "difference-q0.05-p0.05", "top": "top-0.01"},
        },
        "ranks": {
            "share": 0.1,
            "by_layer": [
                {"layer": layer, "similarity": 0.5, "chance": 0.1, "noise_floor": 0.8}
                for layer in range(30)
            ],
        },
        "methods": methods,
        "cells": cells,
        "num_cells": len(cells),
    }  # fmt: skip
