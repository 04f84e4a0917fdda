"""What one training of an experiment showed, from the metrics.json of its tune and its track."""

from collections.abc import Mapping
from typing import Any

MEASURE = "rms_units"  # of drift: in units of the matrix's root mean square weight

Metrics = Mapping[str, Any]


def outcome(tune: Metrics) -> dict[str, Any]:
    """Return what a tuning did to refusals, language and task."""
    before, after, paired = tune["before"], tune["after"], tune["paired"]
    return {
        "asr_before": before["asr"],
        "asr_after": after["asr"],
        "asr_rise": paired["asr"],
        "refused_before": before["harmless_refused"],
        "refused_after": after["harmless_refused"],
        "over_refusal_rise": paired["over_refusal"],
        "degenerate_after": after["degenerate"],
        "destroyed": after["destroyed"],
        "perplexity_ratio": tune["perplexity_ratio"],
        "task_perplexity_ratio": tune["task_perplexity_ratio"],
        "task_loss": paired["task_loss"],
        "task_loss_after": after["task"] and after["task"]["loss"],
        "exact_match_after": after["task"] and after["task"].get("exact_match"),
        "frozen_change": (tune["training"].get("protection") or {}).get("frozen_change"),
        "num_steps": tune["training"]["num_steps"],
    }


def movement(track: Metrics) -> dict[str, Any]:
    """Return how far the critical set moved, beside what is expected and beside its twin in |w|."""
    last = track["checkpoints"][-1]["step"]
    rows = {
        row["group"]: row
        for row in track["drift"]["rows"]
        if row["step"] == last and row["measure"] == MEASURE
    }
    critical, matched = rows["critical"], rows["matched"]
    return {
        "is_held": critical["value"] is None,
        "value": critical["value"],
        "ratio": critical["ratio"],
        "of_matched": _quotient(critical["value"], matched["value"]),
        "p_value": critical["p_corrected"],
        "trainable_share": critical["num_trainable"] / critical["num_weights"],
    }


def _quotient(value: float | None, other: float | None) -> float | None:
    return value / other if value is not None and other else None


def scores(track: Metrics) -> dict[str, Any] | None:
    """Return what became of the critical set's safety scores; None where none were made."""
    if not track["dynamics"]:
        return None
    rows = {
        (row["model"], row["group"]): row
        for row in track["dynamics"]["rows"]
        if row["score"] == "safety"
    }
    own, control = rows["tuned", "critical"], rows.get(("control", "critical"))
    beside = control and control["against_matched"]
    relative, noise = own["against_matched"], rows["noise", "critical"]["against_matched"]
    return {
        "drop": own["drop"],
        "interval": own["drop_interval"],
        "relative_drop": relative and relative["value"],
        "relative_interval": relative and relative["interval"],
        "relative_noise": noise and noise["value"],
        "control_drop": control and control["drop"],
        "control_relative_drop": beside and beside["value"],
        "control_relative_interval": beside and beside["interval"],
        "rank_change": own["rank_change"],
    }


def overlaps(track: Metrics) -> dict[str, dict[str, Any]]:
    """Return by set how much of it is in the one made anew; nothing where none was made."""
    if not track["overlap"]:
        return {}
    keys = ("share", "jaccard", "chance_jaccard", "noise_jaccard", "control_jaccard")
    return {row["group"]: {key: row[key] for key in keys} for row in track["overlap"]["rows"]}
