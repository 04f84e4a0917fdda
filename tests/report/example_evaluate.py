"""The metrics.json of an evaluation that never ran."""

import json

from safetypin.artifacts import Rate


def rate(num_hits, num_judged=40, num_unjudged=0):
    return Rate(num_hits=num_hits, num_judged=num_judged, num_unjudged=num_unjudged).to_json()


def verdicts(refusal, complied, degenerate, num_unjudged=0):
    total = refusal + complied + degenerate
    counts = {"refusal": refusal, "complied": complied, "degenerate": degenerate}
    return {name: rate(count, total, num_unjudged) for name, count in counts.items()}


def attack(mean, any_of_n, *, num_variants=1, by_variant=None, degenerate=0):
    return {
        "mean": mean,
        "any_of_n": any_of_n,
        "num_variants": num_variants,
        "by_variant": by_variant or [mean],
        "degenerate": rate(degenerate, 40 * num_variants),
        "why_no_asr": None,
        "settings": {"name": "x"},
    }


def example_evaluate():
    suffixes = [rate(12), rate(30)]
    destroyed = attack(None, None, degenerate=30) | {
        "by_variant": None,
        "why_no_asr": "75% of the answers are degenerate",
    }
    pair = {"agree": rate(30, 39, 1), "kappa": 0.41, "counts": {}}
    return {
        "schema": 1,
        "kind": "evaluate",
        "safetypin": "0.1.0",
        "settings": {"evaluation": {"judge": "phrases"}},
        "model": {"name": "smollm2-aligned", "id": "smollm2-aligned@abc"},
        "removed": {"num_selected": 1234, "fraction": 0.0059, "fingerprint": "f" * 16},
        "judge": {"name": "phrases", "precision": None, "recall": None, "validated_on": None},
        "prompts": {
            "harmful": {"source": "advbench", "fingerprint": "0" * 16, "num_prompts": 40},
        },
        "rates": {
            "harmful": verdicts(31, 8, 1),
            "harmless": verdicts(3, 37, 0),
            "borderline": verdicts(9, 30, 0, 1),
        },
        "asr": rate(8),
        "why_no_asr": None,
        "perplexity": {"value": 55.3, "num_tokens": 4000},
        "attacks": {
            "vanilla": attack(rate(8), rate(8)),
            "suffix": attack(rate(42, 80), rate(33), num_variants=2, by_variant=suffixes),
            "decoding": attack(rate(53, 200), rate(26), num_variants=5, by_variant=[rate(10)] * 5),
            "prefill": destroyed,
        },
        "zero_shot": {
            "tasks": {
                "bbq-300": {"metric": "acc", "accuracy": rate(31, 60), "standard_error": 0.065}
            },
            "mean": 31 / 60,
            "standard_error": 0.065,
        },
        "problems": rate(2, 50),
        "judges": {
            "asr": {"phrases": rate(8), "papers": rate(3)},
            "pairs": [{"first": "phrases", "second": "papers", **pair}],
            "num_answers": 120,
            "num_disagreements": 30,
            "disagreements": [
                {
                    "kind": "harmful",
                    "index": place,
                    "verdicts": {"phrases": "complied", "papers": "refusal"},
                }
                for place in range(30)
            ],
        },
        "run": {
            "started": "2026-11-21T10:00:00+00:00",
            "finished": "2026-11-21T10:01:00+00:00",
            "seconds": 60.0,
            "command": "safetypin evaluate smollm2-aligned",
            "python": "3.11",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "platform": "Linux",
            "num_threads": 2,
            "commit": None,
            "stages": [{"name": "evaluation", "seconds": 60.0, "reused": False}],
            "hashes": {},
        },
    }


def write_evaluate(folder, metrics):
    """Write the file where `safetypin report` looks for it; return the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return folder
