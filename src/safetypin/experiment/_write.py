"""metrics.json and the page of an experiment, from the records of its parts."""

import datetime
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetypin.artifacts import RunRecord, read_json, write_json
from safetypin.experiment._compare import decide_protections, read_outcomes
from safetypin.experiment._evidence import movement, outcome, overlaps, scores
from safetypin.experiment._file import Arm
from safetypin.experiment._plan import Plan, Run
from safetypin.experiment._spread import spread
from safetypin.experiment._state import METRICS_FILE
from safetypin.experiment._verdict import decide
from safetypin.report import write_report
from safetypin.stages import environment, now

SCHEMA = 1
Parts = Mapping[str, tuple[RunRecord, bool]]


def write_all(plan: Plan, chosen: RunRecord | None, parts: Parts, started: str) -> dict[str, Any]:
    """Write metrics.json and report.html; return the content of metrics.json.

    Args:
        plan: What was run.
        chosen: The record of the set; None where arms make their own.
        parts: The records of all parts by name, and whether each was there already.
        started: When this command began.
    """
    experiment = plan.experiment
    arms = [_arm(plan, arm, parts) for arm in experiment.arms]
    found = {
        "schema": SCHEMA,
        "kind": "experiment",
        "safetypin": version("safetypin"),
        "title": experiment.title,
        "about": experiment.about,
        "scale": experiment.scale,
        "seeds": list(experiment.seeds),
        "settings": {"model": plan.runs[0].tune.model, **experiment.settings},
        "set": dict(chosen.result) if chosen else None,
        "judge": read_json(plan.out / plan.runs[0].name / "tune" / METRICS_FILE)["judge"],
        "arms": arms,
        "hypotheses": experiment.hypotheses,
        "verdict": _verdict(plan, arms),
        "run": _describe(plan, parts, started),
    }
    write_json(plan.out / "metrics.json", found)
    write_report(plan.out)
    return found


def _verdict(plan: Plan, arms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    experiment = plan.experiment
    if not experiment.compares:
        return decide(experiment.hypotheses, arms[0]["runs"])
    outcomes = {
        arm.name: [read_outcomes(plan.out / run.name / "tune") for run in plan.of(arm)]
        for arm in experiment.arms
    }
    return decide_protections(arms, outcomes)


def _arm(plan: Plan, arm: Arm, parts: Parts) -> dict[str, Any]:
    runs = [_row(plan.out, run, parts) for run in plan.of(arm)]
    return {
        "arm": arm.name,
        "about": arm.about,
        "protect": arm.settings["protect"],
        "settings": arm.settings,
        "runs": runs,
        "spread": _spreads(runs),
    }


def _row(out: Path, run: Run, parts: Parts) -> dict[str, Any]:
    """Return what one training showed, with links to its pages."""
    row: dict[str, Any] = {"seed": run.seed, "reports": {}}
    for kind in ("tune", "track"):
        name = f"{run.name}/{kind}"
        row["reports"][kind] = f"{name}/report.html" if name in parts else None
    row["outcome"] = outcome(read_json(out / run.name / "tune" / METRICS_FILE))
    if run.track is None:
        return row | {"drift": None, "scores": None, "overlap": None, "overlaps": {}}
    found = read_json(out / run.name / "track" / METRICS_FILE)
    made_anew = overlaps(found)
    return row | {
        "drift": movement(found),
        "scores": scores(found),
        "overlap": made_anew.get("critical"),
        "overlaps": made_anew,
    }


# what the table shows of every arm: the part of a row, its key, and the key within
SPREADS = {
    "asr_rise": ("outcome", "asr_rise", "value"),
    "asr_after": ("outcome", "asr_after", "value"),
    "refused_after": ("outcome", "refused_after", "value"),
    "task_loss_after": ("outcome", "task_loss_after", None),
    "exact_match_after": ("outcome", "exact_match_after", "value"),
    "over_refusal_rise": ("outcome", "over_refusal_rise", "value"),
    "perplexity_ratio": ("outcome", "perplexity_ratio", None),
    "task_perplexity_ratio": ("outcome", "task_perplexity_ratio", None),
    "drift_ratio": ("drift", "ratio", None),
    "drift_of_matched": ("drift", "of_matched", None),
    "score_drop": ("scores", "drop", None),
    "relative_drop": ("scores", "relative_drop", None),
    "rank_change": ("scores", "rank_change", None),
    "jaccard": ("overlap", "jaccard", None),
}


def _spreads(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean, standard deviation and Student's interval of every number over the seeds."""
    sets = runs[0]["overlaps"]
    return {
        **{
            name: spread([_value(run, *path) for run in runs]).to_json()
            for name, path in SPREADS.items()
        },
        **{
            f"{name}_{key}": spread([run["overlaps"][name][key] for run in runs]).to_json()
            for name in sets
            for key in ("share", "jaccard")
        },
    }


def _value(run: Mapping[str, Any], part: str, key: str, inner: str | None) -> float | None:
    value: Any = run[part] and run[part][key]
    found: float | None = value[inner] if inner and value else value
    return found


def _describe(plan: Plan, parts: Parts, started: str) -> dict[str, Any]:
    about = environment()
    keys = ("command", "python", "torch", "transformers", "platform", "num_threads", "commit")
    begun = datetime.datetime.fromisoformat(started)
    ended = now()
    return {
        "started": started,
        "finished": ended,
        "seconds": (datetime.datetime.fromisoformat(ended) - begun).total_seconds(),
        **{key: about[key] for key in keys},
        "parts": [
            {"name": name, "seconds": record.seconds, "reused": reused}
            for name, (record, reused) in parts.items()
        ],
    }
