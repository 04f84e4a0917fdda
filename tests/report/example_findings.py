"""Builds metrics.json of the shapes that contrast, patch and guard write, for the tests."""

import json
import math
from pathlib import Path
from typing import Any

from example_metrics import example_metrics, rate


def about(command: str) -> dict[str, Any]:
    audit = example_metrics()
    run = audit["run"] | {"command": f"safetypin {command}"}
    settings = {"model": "smollm2-aligned", "counted": "response", "seed": 0, "system": None}
    return {
        "schema": 1, "safetypin": "0.1.0", "settings": settings, "run": run,
        "prompts": {"attack": audit["prompts"]["text"]},
    }  # fmt: skip


def example_contrast(num_layers: int = 36) -> dict[str, Any]:
    """Return a realistic metrics.json; callers change what they test."""
    layers = list(range(num_layers))
    strength = [[0.01 * (1 + layer) / (1 + unit % 7) for unit in range(128)] for layer in layers]
    return about("contrast a --reference b") | {
        "kind": "contrast",
        "model_id": "aligned#0123456789ab",
        "reference_id": "unaligned#ba9876543210",
        "num_examples": 24,
        "num_tokens": 768,
        "set": {
            "site": "neuron", "num_selected": 486 * num_layers, "num_units": 9728 * num_layers,
            "fraction": 0.05, "fingerprint": "5b1c0ce7a8f24d19", "num_common": None,
            "num_foundation": None,
        },
        "layers": [
            {"layer": layer, "num_selected": 27 * layer, "num_units": 9728} for layer in layers
        ],
        "sparsity": [
            {"fraction": 10 ** (-k / 4), "energy": 10 ** (-k / 12)} for k in range(16, -1, -1)
        ],
        "half_energy": 0.004,
        "top_energy": 0.76,
        "noise": {"jaccard": 0.6, "chance_jaccard": 0.0256},
        "map": {
            "layers": layers, "num_units": 9728, "by_place": strength,
            "by_rank": [sorted(row, reverse=True) for row in strength],
        },
        "top": [{"layer": num_layers - 1, "unit": k, "score": 4.7 - k / 9} for k in range(20)],
    }  # fmt: skip


def patch_cell(arm: str, direction: str, fraction: float, hits: int, seed: int | None) -> Any:
    moved = (20 - hits) / 20
    return {
        "arm": arm, "direction": direction, "fraction": fraction, "seed": seed,
        "num_selected": int(46_080 * fraction), "num_shared": 4_238 if seed else 0,
        "asr": rate(hits, 20), "degenerate": rate(1, 20), "destroyed": None,
        "perplexity": 14.2, "perplexity_ratio": 1.07,
        "recovery": {
            "value": moved, "interval": [moved - 0.15, moved + 0.1], "num_prompts": 20,
        } if direction == "patch" else None,
        "change": {"value": -moved, "interval": [-moved - 0.1, -moved + 0.1]},
    }  # fmt: skip


def example_patch() -> dict[str, Any]:
    """Return a realistic metrics.json; callers change what they test."""
    cells = []
    for fraction, own in ((0.05, 12), (0.2, 3), (1.0, 0)):
        cells.append(patch_cell("contrast", "patch", fraction, own, None))
        drawn = range(3) if fraction < 1 else ()
        cells += [patch_cell("random", "patch", fraction, 18 - seed, seed) for seed in drawn]
    destroyed = {
        "asr": None, "change": None, "degenerate": rate(10, 20), "perplexity_ratio": 41.0,
        "destroyed": "50% of the answers are degenerate",
    }  # fmt: skip
    cells.append(patch_cell("contrast", "ablate", 0.05, 0, None) | destroyed)
    cells.append(patch_cell("random", "ablate", 0.05, 1, 0))
    end = {"degenerate": rate(0, 20), "perplexity": 13.3, "destroyed": None}
    return about("patch a --reference b --neurons n") | {
        "kind": "patch",
        "safe_id": "aligned#0123456789ab",
        "unsafe_id": "unaligned#ba9876543210",
        "site": "neuron",
        "num_units": 46_080,
        "judge": example_metrics()["judge"],
        "safe": end | {"asr": rate(0, 20)},
        "unsafe": end | {"asr": rate(20, 20)},
        "gap": {"value": 1.0, "interval": [0.68, 1.0]},
        "cells": cells,
        "verdict": {
            "answer": "cause", "fraction": 0.2, "recovery": cells[4]["recovery"], "random": 0.2,
        },
    }  # fmt: skip


def measured(right: int, area: float, total: int = 96) -> dict[str, Any]:
    missed = (total - right) // 2
    false = total - right - missed
    return {
        "accuracy": rate(right, total),
        "recall": rate(40 - missed, 40),
        "precision": rate(40 - missed, 40 - missed + false),
        "f1": 0.9,
        "f1_interval": [0.84, 0.95],
        "roc_auc": {"value": area, "interval": [area - 0.04, min(1.0, area + 0.03)]},
        "average_precision": {"value": area, "interval": None},
        "confusion": [[total - 40 - false, false], [missed, 40 - missed]],
        "at_limit": {"recall": rate(38, 40), "false_positive_rate": rate(2, total - 40)},
        "calibration": [
            {"predicted": p, "unsafe": rate(round(12 * p), 12)} for p in (0.03, 0.4, 0.97)
        ],
    }


def guard_row(features: str, right: int, area: float, classifier="logistic", seed=None) -> Any:
    size = None if features in {"tfidf-char", "tfidf-word", "length", "majority"} else 2304
    part = measured(right, area)
    return {
        "features": features, "classifier": classifier, "seed": seed, "num_features": size,
        "test": part, "other": part,
    }  # fmt: skip


def example_guard() -> dict[str, Any]:
    """Return a realistic metrics.json; callers change what they test."""
    rows = []
    for classifier in ("logistic", "svm"):
        rows.append(guard_row("contrast", 94, 0.985, classifier))
        rows += [guard_row("random", 92 - seed, 0.97, classifier, seed) for seed in range(3)]
        rows += [guard_row("pca", 93, 0.98, classifier), guard_row("all", 93, 0.98, classifier)]
    rows += [guard_row("tfidf-char", 86, 0.95), guard_row("tfidf-word", 89, 0.96)]
    rows += [guard_row("length", 65, 0.8), guard_row("majority", 56, 0.5)]
    intervals = {"contrast": [0.93, 1.0], "random": [0.9, 0.99], "tfidf-char": [0.7, 0.9]}
    found = about("guard fit --model a") | {
        "kind": "guard",
        "model_id": "aligned#0123456789ab",
        "neurons": {"num_selected": 2304, "num_units": 46_080, "are_prompts_known": True},
        "data": {
            "num_train": 224, "num_test": 96, "num_other": 96, "num_duplicates": 2,
            "num_groups": 80, "num_matched_topics": 80, "matched_share": 1.0,
            "kind": "topic-matched", "easy": False, "tfidf_accuracy": 89 / 96,
            "tfidf": {
                "test": {"tfidf-char": 86 / 96, "tfidf-word": 89 / 96},
                "other": {"tfidf-char": 86 / 96, "tfidf-word": 89 / 96},
            },
        },
        "threshold": 0.363,
        "rows": rows,
        "comparisons": [
            {
                "against": name, "seed": seed, "part": part, "value": value,
                "interval": [value - 0.03, value + 0.05], "p_value": 0.2,
            }
            for name, seed, value in (("random", 0, 0.02), ("tfidf-char", None, 0.08))
            for part in ("test", "other")
        ],
        "curve": [
            {"num_prompts": n, "contrast": 1 - 1 / n, "random": 1 - 2 / n,
             "tfidf-char": 1 - 1 / math.sqrt(n), "intervals": intervals}
            for n in (20, 90, 224)
        ],
    }  # fmt: skip
    found["settings"] |= {
        "features": "contrast", "classifier": "logistic", "false_positive_rate": 0.05,
    }  # fmt: skip
    return found


def write_findings(folder: Path, metrics: dict[str, Any]) -> Path:
    """Write metrics.json into the folder; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return folder
