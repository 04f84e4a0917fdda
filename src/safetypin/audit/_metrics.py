"""metrics.json and examples.json from the records of the stages."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from safetypin.artifacts import PromptSet, RunRecord
from safetypin.audit._cells import Cell, describe_cell, effect_of, effects, planned_cells
from safetypin.audit._config import AuditConfig
from safetypin.audit._effects import Rule
from safetypin.audit._verdict import decide
from safetypin.evaluate import judge_options
from safetypin.stages import (
    complied_flags,
    describe_evaluation,
    describe_judge,
    describe_model,
    describe_prompts,
    describe_run,
    example_rows,
    finite,
    read_perplexity,
)

SCHEMA = 1

Records = Mapping[str, RunRecord]


def metrics(
    config: AuditConfig,
    model: PreTrainedModel,
    identity: str,
    prompts: Mapping[str, PromptSet],
    records: Records,
    reused: Mapping[str, bool],
    run: Mapping[str, Any],
    *,
    why_no_cells: str,
) -> dict[str, Any]:
    """Return all numbers of an audit, each with its numerator and denominator."""
    rule = rule_of(config)
    baseline = records["baseline"].result
    cells = [cell for cell in planned_cells(config) if f"cells/{cell.id}" in records]
    described = [_describe(cell, records, model, baseline, rule) for cell in cells]
    results = {cell.id: records[f"cells/{cell.id}"].result for cell in cells}
    flags = complied_flags(baseline["verdicts"]["harmful"])
    untouched = _untouched(baseline, rule)
    verdict = decide(
        flags,
        effects(described, results),
        rule,
        degenerate=untouched["degenerate"]["value"],
        why_none=why_no_cells,
    )
    sets = records["sets"].result if "sets" in records else None
    return {
        "schema": SCHEMA,
        "safetypin": version("safetypin"),
        "preset": config.preset,
        "settings": config.model_dump(mode="json"),
        "model": describe_model(config.model, model, identity, config.targets),
        "judge": describe_judge(
            config.judge, config.max_new_tokens, judge_options(config.judge_options)
        ),
        "prompts": describe_prompts(prompts, {kind: getattr(config, kind) for kind in prompts}),
        "baseline": untouched,
        "calibration": _calibration(records),
        "scores": _scores(config, records),
        "overlap": sets["overlap"] if sets else [],
        "cells": described,
        "verdict": verdict,
        "where": _where(sets, verdict, described),
        "run": describe_run(records, reused, run),
    }


def _untouched(baseline: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
    """Return the rates of the untouched model; it has no ASR where it is degenerate itself."""
    found = describe_evaluation(baseline)
    if (found["degenerate"]["value"] or 0.0) > rule.max_degenerate:
        found["asr"] = None
    losses = read_perplexity(baseline["perplexity"]).losses
    found["perplexity"]["loss"] = finite(sum(losses))
    return found


def rule_of(config: AuditConfig) -> Rule:
    """Return the thresholds of the verdict."""
    return Rule(
        min_asr_rise=config.min_asr_rise,
        max_perplexity_ratio=config.max_perplexity_ratio,
        max_degenerate=config.max_degenerate,
    )


def _describe(
    cell: Cell,
    records: Records,
    model: PreTrainedModel,
    baseline: Mapping[str, Any],
    rule: Rule,
) -> dict[str, Any]:
    sizes = records["sets"].result["sets"][cell.of]
    result = records[f"cells/{cell.id}"].result
    return describe_cell(cell, sizes, model.num_parameters(), result, baseline, rule)


def _calibration(records: Records) -> dict[str, Any] | None:
    names = ("safety", "utility")
    if any(f"calibration-{name}" not in records for name in names):
        return None
    return {name: records[f"calibration-{name}"].result for name in names}


def _scores(config: AuditConfig, records: Records) -> dict[str, Any] | None:
    if "scores-safety" not in records or "scores-utility" not in records:
        return None
    found: dict[str, Any] = {"method": config.method}
    for name in ("safety", "utility"):
        record = records[f"scores-{name}"]
        counts = {key: record.result[key] for key in ("num_examples", "num_tokens")}
        found[name] = {**counts, "seconds": record.seconds}
    return found


def _shown_cell(verdict: Mapping[str, Any], cells: list[dict[str, Any]]) -> str | None:
    """Return the cell to look into: the verdict's, else the critical one with the largest rise."""
    if verdict["cell"]:
        return str(verdict["cell"])
    critical = [cell for cell in cells if cell["arm"] == "critical"]
    alive = [cell for cell in critical if cell["asr_change"]]
    rule = Rule(**verdict["rule"])
    spoken = [cell for cell in alive if effect_of(cell).keeps_language(rule)]
    if chosen := spoken or alive:
        return str(max(chosen, key=lambda cell: cell["asr_change"]["value"] or 0.0)["id"])
    return str(critical[0]["id"]) if critical else None


def _where(
    sets: Mapping[str, Any] | None, verdict: Mapping[str, Any], cells: list[dict[str, Any]]
) -> dict[str, Any] | None:
    shown = _shown_cell(verdict, cells)
    if sets is None or shown is None:
        return None
    return {"cell": shown, **sets["sets"][shown]["where"]}


def examples(out: Path, found: Mapping[str, Any], records: Records) -> dict[str, Any] | None:
    """Return answers before and after, of the cell that the report looks into."""
    shown = _shown_cell(found["verdict"], found["cells"])
    if shown is None:
        return None
    name = f"cells/{shown}"
    folders = out / "baseline", out / name
    rows = example_rows(folders, (records["baseline"].result, records[name].result))
    return {"cell": shown, "rows": rows}
