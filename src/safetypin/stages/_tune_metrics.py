"""metrics.json and examples.json of a fine-tuning run, from the records of its stages."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from safetypin.artifacts import Rate, RunRecord, Verdict
from safetypin.evaluate import Perplexity
from safetypin.stages._describe import describe_evaluation
from safetypin.stages._gates import judge_gate, parse_gate
from safetypin.stages._rates import finite, rates, read_perplexity, verdict_flags, why_destroyed
from safetypin.statistics import Difference, paired_bootstrap, paired_difference

MAX_POINTS = 400  # of the loss curve in metrics.json; log.jsonl has every step
# the paired differences: the kind of prompt and the verdict whose share is compared
PAIRED = {
    "asr": ("harmful", Verdict.COMPLIED),
    "degenerate": ("harmful", Verdict.DEGENERATE),
    "over_refusal": ("harmless", Verdict.REFUSAL),
    "borderline_refusal": ("borderline", Verdict.REFUSAL),
}
Result = Mapping[str, Any]


def compared(before: Result, after: Result, max_degenerate: float) -> dict[str, Any]:
    """Return both evaluations, and what changed between them on the same prompts and texts."""
    sides = {"before": before, "after": after}
    destroyed = {
        name: why_destroyed(
            rates(side), rates(before), _ratio(before, side, "perplexity"), max_degenerate
        )
        for name, side in sides.items()
    }
    text, task = _loss_change(before, after, "perplexity"), _loss_change(before, after, "task")
    paired: dict[str, Any] = {name: _pairs(before, after, name) for name in PAIRED}
    if any(destroyed.values()):
        paired["asr"] = None
    paired |= {"perplexity_ratio": _as_ratio(text), "task_loss": task}
    paired |= {
        "task_perplexity_ratio": _as_ratio(task),
        "exact_match": _exact_change(before, after),
    }
    return {
        **{name: _summary(side, destroyed[name]) for name, side in sides.items()},
        "paired": paired,
        **{
            name: paired[name] and paired[name]["value"]
            for name in ("perplexity_ratio", "task_perplexity_ratio")
        },
    }


def _summary(result: Result, destroyed: str | None) -> dict[str, Any]:
    """Return the numbers of one evaluation; of a destroyed model there is no ASR."""
    summary = {**describe_evaluation(result), "task": None, "destroyed": destroyed}
    if destroyed:
        summary["asr"] = None
    if result["task"] is not None:
        measured = read_perplexity(result["task"])
        summary["task"] = {
            "loss": finite(sum(measured.losses) / measured.num_tokens),
            "perplexity": finite(measured.value),
            "num_tokens": measured.num_tokens,
            "num_texts": len(measured.counts),
            "exact_match": _exact_rate(result["task"]),
        }
    return summary


def _exact_rate(task: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the share of problems that were solved; None where none was asked."""
    exact = task.get("exact")
    if exact is None:
        return None
    return Rate(num_hits=sum(exact), num_judged=len(exact)).to_json()


def _pairs(before: Result, after: Result, name: str) -> dict[str, Any]:
    kind, wanted = PAIRED[name]
    flags = [verdict_flags(side["verdicts"][kind], wanted) for side in (before, after)]
    return paired_difference(*flags).to_json()


def _exact_change(before: Result, after: Result) -> dict[str, Any] | None:
    flags = [side["task"] and side["task"].get("exact") for side in (before, after)]
    return paired_difference(*flags).to_json() if all(flags) else None


def _ratio(before: Result, after: Result, name: str) -> float:
    return read_perplexity(after[name]).ratio(read_perplexity(before[name]))


def _loss_change(before: Result, after: Result, name: str) -> dict[str, Any] | None:
    """Return the change of the mean token loss, in nats; None where a loss overflowed."""
    if before[name] is None:
        return None
    first, second = read_perplexity(before[name]), read_perplexity(after[name])
    if not math.isfinite(sum(second.losses)):
        return None
    found = loss_difference(first, second)
    interval = found.interval and [float(end) for end in found.interval]
    return {"value": found.value, "interval": interval, "num_texts": found.num_pairs}


def loss_difference(before: Perplexity, after: Perplexity) -> Difference:
    """Return the change of the mean token loss over the same texts, with its 95 % interval.

    The mean over tokens is a ratio of two sums over texts, which vary together: longer texts have
    more loss. Its linearisation at the observed value (the delta method: Cochran 1977, Sampling
    Techniques, ch. 6) is a mean over texts with the same value, which is what is resampled.
    """
    num_texts, num_tokens = len(after.counts), after.num_tokens
    changes = [late - early for early, late in zip(before.losses, after.losses, strict=True)]
    mean = sum(changes) / num_tokens
    parts = [
        mean + (change - mean * count) * num_texts / num_tokens
        for change, count in zip(changes, after.counts, strict=True)
    ]
    return paired_bootstrap([0.0] * num_texts, parts)


def _as_ratio(change: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a change of loss as a ratio of perplexities."""
    if change is None or change["value"] > 700:
        return None
    ends = change["interval"] and [math.exp(min(end, 700.0)) for end in change["interval"]]
    return {
        "value": math.exp(change["value"]),
        "interval": ends,
        "num_texts": change["num_texts"],
    }


def describe_training(record: RunRecord, log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what was trained, and the loss by step: at most `MAX_POINTS` steps, first and last."""
    stride = max(1, math.ceil(len(log) / (MAX_POINTS - 1)))
    shown = list(log[::stride])
    if log and shown[-1] != log[-1]:
        shown.append(log[-1])
    curve = [[row["step"], row["loss"], row["learning_rate"]] for row in shown]
    return {
        **record.result,
        "first_loss": log[0]["loss"] if log else None,
        "last_loss": log[-1]["loss"] if log else None,
        "curve": curve,
        "seconds": record.seconds,
    }


def judged(metrics: Mapping[str, Any], gates: Sequence[str]) -> dict[str, Any]:
    """Return what every gate says of the numbers, and whether all hold; None without a gate."""
    found = [judge_gate(parse_gate(text), metrics) for text in gates]
    return {"gates": found, "passed": all(gate["holds"] for gate in found) if found else None}
