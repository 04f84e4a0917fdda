"""The metrics.json and the page of `safetypin evaluate`."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetypin.artifacts import PromptSet, WeightMask, write_json
from safetypin.report import write_report
from safetypin.stages._describe import describe_prompts

SCHEMA = 1


def write_evaluation(
    out: Path,
    summary: Mapping[str, Any],
    *,
    model: Mapping[str, str],
    mask: WeightMask | None,
    prompts: Mapping[str, PromptSet],
    sources: Mapping[str, str],
    settings: Mapping[str, Any],
    run: Mapping[str, Any],
) -> None:
    """Write `metrics.json` and `report.html` into the run folder.

    Args:
        out: The run folder.
        summary: What the command prints.
        model: Its `name` and `id`.
        mask: The set that was removed, if one was.
        prompts: By kind.
        sources: Where they come from, by kind.
        settings: What the evaluation depends on besides.
        run: When, where and by which command.
    """
    rates = {
        kind: summary[kind] for kind in ("harmful", "harmless", "borderline") if kind in summary
    }
    found = {
        "schema": SCHEMA,
        "kind": "evaluate",
        "safetypin": version("safetypin"),
        "settings": dict(settings),
        "model": dict(model),
        "removed": mask
        and {
            "num_selected": mask.num_selected,
            "fraction": mask.fraction,
            "fingerprint": mask.fingerprint,
        },
        "judge": summary["judge"],
        "prompts": describe_prompts(prompts, sources),
        "rates": rates,
        "asr": summary.get("asr"),
        "why_no_asr": summary.get("why_no_asr"),
        "perplexity": summary.get("perplexity"),
        "attacks": summary.get("attacks", {}),
        "zero_shot": summary.get("zero_shot"),
        "problems": summary.get("problems"),
        "judges": summary.get("judges"),
        "run": dict(run),
    }
    write_json(out / "metrics.json", found)
    write_report(out)
