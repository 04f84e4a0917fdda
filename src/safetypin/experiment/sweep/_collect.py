"""metrics.json of a sweep, from the records of its cells."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from safetypin.artifacts import RunRecord, Verdict
from safetypin.evaluate import attack_rates, attack_success_rate
from safetypin.experiment.sweep._cells import Cell, Removed
from safetypin.experiment.sweep._file import Sweep
from safetypin.experiment.sweep._known import UNTOUCHED, is_known, known
from safetypin.experiment.sweep.methods import Difference, Projection, Random
from safetypin.stages import (
    Series,
    Subject,
    complied_flags,
    describe_attacks,
    describe_evaluation,
    describe_judge,
    describe_model,
    describe_prompts,
    describe_zero_shot,
    finite,
    rates,
    read_perplexity,
    why_destroyed,
)
from safetypin.statistics import paired_difference

SCHEMA = 1


def collect(
    sweep: Sweep,
    subject: Subject,
    prompts: Mapping[str, Any],
    baseline: RunRecord,
    records: Mapping[str, RunRecord],
    made: Mapping[str, Any],
    series: Series,
    attacks: Mapping[str, Any],
) -> dict[str, Any]:
    """Return all numbers of a sweep, each with its numerator and denominator."""
    config = sweep.config
    sources = {kind: getattr(config, kind) for kind in prompts}
    settings = {"scale": sweep.scale, "takes": sweep.takes or "not measured"}
    settings |= sweep.measures.model_dump(mode="json")
    shared = config.model_dump(mode="json", exclude={"preset", "q", "p", "controls", "method"})
    cells = [
        _describe(sweep, cell, records[cell.id], baseline.result, attacks)
        for cell in sweep.cells
        if cell.id in records
    ]
    return {
        "schema": SCHEMA,
        "kind": "sweep",
        "safetypin": version("safetypin"),
        "title": sweep.title,
        "about": sweep.about,
        "scale": sweep.scale,
        "settings": settings | shared,
        "model": describe_model(config.model, subject.model, subject.identity, config.targets),
        "judge": describe_judge(config.judge, config.max_new_tokens),
        "prompts": describe_prompts(prompts, sources),
        "baseline": {
            **describe_evaluation(baseline.result),
            **_attacked(baseline.result, attacks, config.max_degenerate),
            "also_judged": _also_judged(baseline.result),
            **_zero_shot(baseline.result),
            "known": {"row": "original", **UNTOUCHED._asdict()} if is_known(config.model) else None,
        },
        "sets": made["sets"] and {key: made["sets"][key] for key in ("overlap", "between", "of")},
        "ranks": made["ranks"],
        "methods": [_method(sweep, name) for name in sweep.methods],
        "cells": cells,
        "num_cells": len(sweep.cells),
        "run": _run(series, records, baseline),
    }


def _run(series: Series, records: Mapping[str, RunRecord], baseline: RunRecord) -> dict[str, Any]:
    """Return the run, with where the time of the cells went."""
    done = list(records.values())
    return {
        **series.describe(),
        "cells": {
            "seconds": round(sum(record.seconds for record in done), 1),
            "measuring": round(sum(record.result["measured_s"] for record in done), 1),
            "changing": round(sum(record.result["change_s"] for record in done), 1),
            "baseline": baseline.result["measured_s"],
        },
    }


def _method(sweep: Sweep, name: str) -> dict[str, Any]:
    method = sweep.methods[name]
    is_random = isinstance(method, Random)
    return {
        "name": name,
        "about": method.about,
        "kind": method.kind,
        "like": method.like if is_random else None,
        "scorer": None if is_random else method.scorer,
    }


def _describe(
    sweep: Sweep,
    cell: Cell,
    record: RunRecord,
    baseline: Mapping[str, Any],
    attacks: Mapping[str, Any],
) -> dict[str, Any]:
    """Return one cell; a destroyed model has no attack success rate."""
    result = record.result
    found, before = rates(result), rates(baseline)
    measured = read_perplexity(result["perplexity"])
    ratio = measured.ratio(read_perplexity(baseline["perplexity"]))
    destroyed = why_destroyed(found, before, ratio, sweep.config.max_degenerate)
    flags = [complied_flags(side["verdicts"]["harmful"]) for side in (baseline, result)]
    shown: dict[str, Any] = {name: rate.to_json() for name, rate in found.items()}
    removed = Removed(**result["removed"])
    return {
        "id": cell.id,
        "method": cell.method,
        "size": cell.size,
        "seed": cell.seed,
        "like": cell.like,
        "removed": {**result["removed"], "share": removed.share},
        "destroyed": destroyed is not None,
        "why_destroyed": destroyed,
        **(shown | {"asr": None if destroyed else shown["asr"]}),
        "asr_as_judged": shown["asr"],
        "asr_change": None if destroyed else paired_difference(*flags).to_json(),
        "also_judged": _also_judged(result),
        **_attacked(
            result, attacks, sweep.config.max_degenerate, is_destroyed=destroyed is not None
        ),
        **_zero_shot(result),
        "perplexity": finite(measured.value),
        "perplexity_ratio": finite(ratio),
        "perplexity_tokens": measured.num_tokens,
        "known": _known(sweep, cell),
        "measured_s": result["measured_s"],
        "change_s": result["change_s"],
    }


def _attacked(
    result: Mapping[str, Any],
    attacks: Mapping[str, Any],
    max_degenerate: float,
    *,
    is_destroyed: bool = False,
) -> dict[str, Any]:
    if result["attacks"] is None:
        return {"attacks": {}}
    found = describe_attacks(attacks, {"verdicts": result["attacks"]}, max_degenerate)
    for name, one in found.items():
        if is_destroyed:
            one |= {"mean": None, "any_of_n": None, "by_variant": None}
        one["also_judged"] = {
            judge: attack_rates([[Verdict(v) for v in row] for row in rows[name]]).to_json()["mean"]
            for judge, rows in result.get("attacks_also_judged", {}).items()
        }
    return {"attacks": found}


def _also_judged(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what other judges make of the same answers: as they say it, destroyed or not."""
    return {
        name: attack_success_rate([Verdict(verdict) for verdict in verdicts]).to_json()
        for name, verdicts in result["also_judged"].items()
    }


def _zero_shot(result: Mapping[str, Any]) -> dict[str, Any]:
    if result["zero_shot"] is None:
        return {"zero_shot": {}, "zero_shot_mean": None}
    found = describe_zero_shot(result["zero_shot"])
    mean = {"value": found["mean"], "standard_error": found["standard_error"]}
    return {"zero_shot": found["tasks"], "zero_shot_mean": mean}


def _known(sweep: Sweep, cell: Cell) -> dict[str, Any] | None:
    method = sweep.methods[cell.method]
    if not isinstance(method, Difference | Projection):
        return None
    if isinstance(method, Difference) and not method.is_of_the_paper:
        return None
    found = known(sweep.config.model, method.kind, method.pair(cell.size))
    return found and {"row": found[0], **found[1]._asdict()}
