"""The parts of metrics.json and examples.json that do not depend on the command."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from safetypin.artifacts import PromptSet, RunRecord
from safetypin.evaluate import measured, refusal_judge
from safetypin.models import coverage
from safetypin.stages._evaluate import read_responses
from safetypin.stages._rates import finite, rates, read_perplexity
from safetypin.stages._run import environment, now

VERSIONS = ("safetypin", "commit", "torch", "transformers")  # what a result may come out by
NUM_EXAMPLES = {"harmful": 12, "harmless": 4, "borderline": 4}


def describe_model(
    name: str, model: PreTrainedModel, identity: str, targets: tuple[str, ...] | None
) -> dict[str, Any]:
    """Return name, id, size and coverage of a model."""
    covered = coverage(model, targets)
    return {
        "name": name,
        "id": identity,
        "architecture": type(model).__name__,
        "num_parameters": model.num_parameters(),
        "num_block_weights": covered.num_block_weights,
        "num_scored_weights": covered.num_scored,
        "coverage": covered.num_scored / covered.num_block_weights,
        "not_covered": list(covered.not_covered),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "num_layers": model.config.get_text_config().num_hidden_layers,
    }


def describe_judge(
    name: str, max_new_tokens: int | None, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return how well a judge agrees with people on answers cut there, where that was measured.

    `refusal_judge` is who tells refusals beside a judge that tells harm alone.
    """
    known = measured(name, max_new_tokens=max_new_tokens)
    return {
        "name": name,
        "precision": known and known.precision.to_json(),
        "recall": known and known.recall.to_json(),
        "validated_on": known and known.source,
        "refusal_judge": refusal_judge(name, options or {}),
    }


def describe_prompts(
    prompts: Mapping[str, PromptSet], sources: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return source, fingerprint and size of every prompt set."""
    return {
        kind: {
            "source": sources[kind],
            "fingerprint": chosen.fingerprint,
            "num_prompts": len(chosen),
        }
        for kind, chosen in prompts.items()
    }


def describe_evaluation(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return every rate of an evaluation, and its perplexity."""
    measured_on = read_perplexity(result["perplexity"])
    return {
        **{name: rate.to_json() for name, rate in rates(result).items()},
        "perplexity": {
            "value": finite(measured_on.value),
            "num_tokens": measured_on.num_tokens,
            "num_texts": len(measured_on.counts),
        },
    }


def describe_run(
    records: Mapping[str, RunRecord], reused: Mapping[str, bool], run: Mapping[str, Any]
) -> dict[str, Any]:
    """Return when, where and by which command a run was made, with the hashes of its files.

    A stage is kept as long as its inputs are the same, whatever code made it. So the versions here,
    which are today's, are not those of every stage; `other_versions` holds those that differ.
    """
    about = environment()
    keys = ("command", "python", "torch", "transformers", "platform", "num_threads", "commit")
    return {
        **run,
        "finished": now(),
        **{key: about[key] for key in keys},
        "other_versions": _other_versions(records, reused, about),
        "stages": [
            {"name": name, "seconds": record.seconds, "reused": reused[name]}
            for name, record in records.items()
        ],
        "hashes": {
            f"{name}/{file}": digest
            for name, record in records.items()
            for file, digest in record.files.items()
        },
    }


def _other_versions(
    records: Mapping[str, RunRecord], reused: Mapping[str, bool], about: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the kept stages that other versions than today's made, by what differs."""
    groups: dict[tuple[tuple[str, Any], ...], list[str]] = {}
    for name, record in records.items():
        made = record.environment
        # what an older record does not say is not known to differ
        known = tuple((key, made[key]) for key in VERSIONS if key in made)
        differs = tuple((key, value) for key, value in known if value != about[key])
        if reused[name] and differs:
            groups.setdefault(differs, []).append(name)
    return [{"stages": names, "versions": dict(differs)} for differs, names in groups.items()]


def example_rows(
    folders: tuple[Path, Path], results: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return some answers before and after, with their verdicts.

    Args:
        folders: Of the two evaluations.
        results: Of the same, from their records.
    """
    rows = []
    for kind, count in NUM_EXAMPLES.items():
        before, after = (read_responses(folder, kind) for folder in folders)
        verdicts = [result["verdicts"][kind] for result in results]
        rows += [
            {
                "kind": kind,
                "prompt": before[index].prompt,
                "before": {"text": before[index].text, "verdict": verdicts[0][index]},
                "after": {"text": after[index].text, "verdict": verdicts[1][index]},
            }
            for index in range(min(count, len(before)))
        ]
    return rows
