"""Builds a metrics.json of the shape that a track writes, for the tests."""

import json
import math
from pathlib import Path
from typing import Any

from example_metrics import MODULES, SIZES, example_answers, example_metrics, prompts, where
from example_tune import example_tune

GROUPS = {
    "critical": "the safety-critical set",
    "top_safety": "the highest safety scores",
    "top_utility": "the highest utility scores",
    "random": "as many weights as critical in every matrix, drawn uniformly outside of it",
    "matched": "the same with the same sizes of weights",
}
SETS = ("critical", "top_safety", "top_utility")
MEASURES = {
    "rms_units": ("mean |dW| over the set in units of the RMS weight of its matrix", ""),
    "norm_ratio": ("norm of the set's changes / norm of its weights before", "compare"),
    "row_cosine": ("mean over the set of the cosine of its row", "compare"),
    "relative_change": ("mean |dW| / |W|", "dominated by the smallest |W|; not tested"),
    "changed_share": ("share of the set that changed at all", ""),
}
STEPS = (25, 50, 75)
NUM_MEMBERS = 329_012
NUM_WEIGHTS = 106_168_320
# at the last step: value, expected
DRIFT = {
    "rms_units": {
        "critical": (0.0131, 0.0119), "top_safety": (0.0127, 0.0119),
        "top_utility": (0.0122, 0.012), "random": (0.0118, 0.0119), "matched": (0.0119, 0.0119),
    },
    "norm_ratio": {
        "critical": (0.0061, 0.0058), "top_safety": (0.0054, 0.0053), "top_utility": (0.005, 0.005),
        "random": (0.0151, 0.0152), "matched": (0.006, 0.006),
    },
    "row_cosine": {
        "critical": (0.999912, 0.999921), "top_safety": (0.99992, 0.999921),
        "top_utility": (0.999923, 0.999921), "random": (0.999921, 0.999921),
        "matched": (0.99992, 0.999921),
    },
    "relative_change": {
        "critical": (0.0049, 0.0046), "top_safety": (0.0041, 0.0041),
        "top_utility": (0.0042, 0.0042), "random": (0.0893, 0.091), "matched": (0.0047, 0.0047),
    },
    "changed_share": dict.fromkeys(GROUPS, (0.998, 0.998)),
}  # fmt: skip


def grid(num_layers: int, *names: str) -> dict[str, Any]:
    """Return numbers of every matrix; one matrix has none."""
    values: list[list[float | None]] = [
        [0.1 + 0.8 * (layer + place) / (num_layers + len(MODULES)) for place in range(len(MODULES))]
        for layer in range(num_layers)
    ]
    values[0][0] = None
    layers = list(range(num_layers))
    return {"layers": layers, "modules": list(MODULES), **dict.fromkeys(names, values)}


def drift_row(
    step: int, group: str, measure: str, *, trainable: bool = True, scale: float = 1.0
) -> dict[str, Any]:
    value, expected = DRIFT[measure][group]
    grown = scale if measure in ("row_cosine", "changed_share") else scale * step / STEPS[-1]
    tested = measure in ("rms_units", "norm_ratio", "row_cosine")
    p = 0.004 if group == "critical" else 0.4
    row: dict[str, Any] = {
        "step": step,
        "group": group,
        "measure": measure,
        "value": value * grown,
        "expected": expected * grown,
        "low": expected * grown * 0.97 if tested else None,
        "high": expected * grown * 1.03 if tested else None,
        "spread": 0.3 * value * grown,
        "num_weights": NUM_MEMBERS,
        "num_trainable": NUM_MEMBERS,
        "ratio": value / expected,
        "p_value": p / 5 if tested else None,
        "p_corrected": p if tested else None,
        "trainable_share": 1.0,
    }
    if not trainable:
        gone = ("value", "expected", "low", "high", "spread", "ratio", "p_value", "p_corrected")
        row |= dict.fromkeys(gone) | {"num_trainable": 0, "trainable_share": 0.0}
    return row


def drift_map(group: str, num_layers: int) -> dict[str, Any]:
    def grid(size: float) -> list[list[float | None]]:
        return [
            [
                None if (module, layer) == ("k_proj", 1)
                else size * (1 + 0.5 * math.sin(layer / 5 + index))
                for index, module in enumerate(MODULES)
            ]
            for layer in range(num_layers)
        ]  # fmt: skip

    layers = list(range(num_layers))
    found = {"value": grid(0.0131), "expected": grid(0.0119)}
    return {"group": group, "layers": layers, "modules": list(MODULES), **found}


def dynamics_row(model: str, score: str, group: str) -> dict[str, Any]:
    drop = {"tuned": 0.31, "control": 0.42, "noise": 0.12}[model] * (group == "critical") + 0.08
    beside = {"value": drop - 0.08, "interval": [drop - 0.13, drop - 0.04]}
    beside = None if group == "matched" else beside
    mean = {"critical": 4.1e-5, "random": 2.2e-7}.get(group, 3e-5)
    return {
        "model": model,
        "score": score,
        "group": group,
        "num_weights": NUM_MEMBERS,
        "mean_before": mean,
        "mean_after": mean * (1 - drop),
        "sd_before": 1.3 * mean,
        "sd_after": 1.2 * mean,
        **{f"p{p:02}_before": mean * p / 60 for p in (5, 25, 50, 75, 95)},
        **{f"p{p:02}_after": mean * p / 70 for p in (5, 25, 50, 75, 95)},
        "drop": drop,
        "drop_of_all": 0.09,
        "drop_interval": [drop - 0.04, drop + 0.05],
        **dict.fromkeys(("beyond_matched", "against_matched"), beside),
        "share_lower": 0.66,
        "rank_before": 0.991,
        "rank_after": 0.962,
        "rank_change_sd": 0.03,
        "rank_change": -0.029,
    }


def histogram(score: str, group: str) -> dict[str, Any]:
    edges = [10 ** (-9 + i / 8) for i in range(41)]

    def counts(centre: float) -> list[int]:
        return [round(30_000 * math.exp(-(((i - centre) / 7) ** 2))) for i in range(40)]

    return {
        "score": score,
        "group": group,
        "layer": None,
        "role": None,
        "edges": edges,
        "before": counts(26 if group == "critical" else 14),
        "after": counts(23 if group == "critical" else 14),
        "zeros_before": 0,
        "zeros_after": 12 if group == "critical" else 0,
    }


def overlap_row(group: str, share: float, floor: float, control: float | None) -> dict[str, Any]:
    def jaccard(part: float | None) -> float | None:
        return None if part is None else part / (2 - part)

    return {
        "group": group,
        "num_weights": NUM_WEIGHTS,
        "num_before": NUM_MEMBERS,
        "num_after": NUM_MEMBERS,
        "num_both": round(share * NUM_MEMBERS),
        "share": share,
        "jaccard": jaccard(share),
        "chance_share": 0.0031,
        "chance_share_low": 0.0029,
        "chance_share_high": 0.0033,
        "chance_jaccard": jaccard(0.0031),
        "chance_jaccard_low": 0.0014,
        "chance_jaccard_high": 0.0016,
        "noise_share": floor,
        "noise_jaccard": jaccard(floor),
        "control_share": control,
        "control_jaccard": jaccard(control),
    }


def overlaps(num_layers: int, control: bool) -> dict[str, Any]:
    shares = {"critical": (0.43, 0.61, 0.35), "top_safety": (0.55, 0.7, 0.5),
              "top_utility": (0.72, 0.78, 0.71)}  # fmt: skip
    rows = [
        overlap_row(group, share, floor, other if control else None)
        for group, (share, floor, other) in shares.items()
    ]
    by_layer = [
        {
            **overlap_row(group, share * (1 + 0.2 * math.sin(layer)), floor, None),
            "layer": layer,
        }
        for group, (share, floor, _) in shares.items()
        for layer in range(num_layers)
    ]
    maps = [{**grid(num_layers, "share", "noise_share"), "group": group} for group in SETS]
    return {"rows": rows, "by_layer": by_layer, "maps": maps}


FINDINGS = [
    ("Did the model become less safe?", "fell", "It complied with 4 of 48 before, 21 of 48 after."),
    ("Did the safety-critical weights move more than others?", "more", "1.10 times, p = 0.004."),
    ("Did its weights' safety scores change?", "fell", "By 39 %; two halves of the prompts 20 %."),
    ("Is it still the safety-critical set?", "43 % of it is", "Chance gives 0 %, noise 61 %."),
    ("A or B: do the scores of held safety weights fall?", "not asked", "The set was free."),
    ("C or D: do free safety weights move more than others, or less?", "C supported", "It did."),
]


def trained(path: str, protection: str | None) -> dict[str, Any]:
    return {
        "folder": path,
        "path": f"{path}/training/model",
        "id": "model#0123456789ab",
        "step": STEPS[-1],
        "kind": "full",
        "protection": protection,
    }


def example_track(*, num_layers: int = 30, control: bool = True, frozen: bool = False) -> Any:
    """Return a realistic metrics.json; callers change what they test."""
    audit, tune = example_metrics(), example_tune()
    place = {k: v for k, v in where("x", num_layers).items() if k != "cell"}
    sized = {"num_selected": NUM_MEMBERS, "num_weights": NUM_WEIGHTS, "fraction": 0.0031}
    models = ("tuned", *(("control",) if control else ()), "noise")
    held = {"critical"} if frozen else set()
    roles = [f"mlp.{name}" if SIZES[i] > 500_000 else f"self_attn.{name}"
             for i, name in enumerate(MODULES)]  # fmt: skip
    return {
        "schema": 1,
        "kind": "track",
        "safetypin": "0.1.0",
        "preset": "standard",
        "settings": {},
        "reference": audit["model"],
        "tuned": trained("runs/tuned", "freeze" if frozen else "none"),
        "control": trained("runs/free", "none") if control else None,
        "checkpoints": [
            {"step": step, "path": f"runs/tuned/{step}", "kind": "full"} for step in STEPS
        ],
        "notes": ["checkpoint-100 is left out, as it is not whole"],
        "judge": audit["judge"],
        "prompts": {"safety": prompts("builtin-harmful:calibration", 128)},
        "set": {
            "source": "audit",
            "path": "runs/demo",
            "name": "critical-q0.005-p0.005",
            "q": 0.005,
            "p": 0.005,
            "group": "matrix",
        },
        "groups": [
            {
                "group": name,
                "about": about,
                **sized,
                "num_trainable": 0 if name in held else NUM_MEMBERS,
                "fingerprint": "5b1c0ce7a8f24d19",
                "where": place,
            }
            for name, about in GROUPS.items()
        ],
        "drift": {
            "measures": [
                {"measure": name, "help": about, "warning": warning}
                for name, (about, warning) in MEASURES.items()
            ],
            "num_permutations": 999,
            "notes": ["norm_ratio: compare with what was expected"],
            "rows": [
                drift_row(step, group, measure, trainable=group not in held)
                for step in STEPS
                for group in GROUPS
                for measure in MEASURES
            ],
            "roles": [
                {"role": role, **drift_row(STEPS[-1], group, "rms_units")}
                for group in GROUPS
                for role in roles
            ],
            "maps": [drift_map(group, num_layers) for group in GROUPS],
        },
        "scores": {
            "method": "snip",
            "counted": "response",
            "safety": {"num_examples": 112, "num_tokens": 2710},
            "utility": {"num_examples": 126, "num_tokens": 3901},
        },
        "dynamics": {
            "rows": [
                dynamics_row(model, score, group)
                for model in models
                for score in ("safety", "utility")
                for group in GROUPS
            ],
            "by_layer": [
                {
                    "model": model,
                    "score": score,
                    "group": group,
                    "layer": layer,
                    "num_weights": 11_000,
                    "drop": 0.3 + 0.2 * math.sin(layer / 3),
                    "drop_of_all": 0.09,
                    "rank_change": -0.02,
                }
                for model in models
                for score in ("safety", "utility")
                for group in SETS
                for layer in range(num_layers)
            ],
            "histograms": [
                histogram(score, group) for score in ("safety", "utility") for group in GROUPS
            ],
            "maps": [
                {
                    **grid(num_layers, "mean_before", "mean_after"),
                    "group": group,
                    "score": score,
                }
                for group in (*SETS, "matched")
                for score in ("safety", "utility")
            ],
            "notes": ["a set that was chosen for its high scores falls whenever it is scored anew"],
        },
        "overlap": overlaps(num_layers, control),
        "outcome": {
            "is_evaluated_here": True,
            **{key: tune[key] for key in ("before", "after", "paired", "perplexity_ratio")},
        },
        "findings": [
            {"question": question, "answer": found, "sentence": sentence, "rule": "a stated rule"}
            for question, found, sentence in FINDINGS
        ],
        "run": {
            **audit["run"],
            "command": "safetypin track runs/tuned --groups runs/demo --out runs/tracked",
        },
    }


def write_track(
    folder: Path, metrics: dict[str, Any] | None = None, answers: dict[str, Any] | None = None
) -> Path:
    """Write both files as a track does, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = answers or {"rows": example_answers()["rows"]}
    (folder / "metrics.json").write_text(json.dumps(metrics or example_track()), encoding="utf-8")
    (folder / "examples.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder
