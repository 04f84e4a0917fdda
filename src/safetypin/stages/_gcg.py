"""`safetypin gcg`: suffixes found on a model, kept step by step, and written to a file."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import PromptSet, UserError, append_line, read_lines, write_text
from safetypin.evaluate import GcgSettings, GcgStep, find_suffix
from safetypin.models import load_model, model_id
from safetypin.stages._progress import Reporter
from safetypin.stages._run import Output, held, run_stage
from safetypin.stages._score_files import sampled
from safetypin.stages._subject import model_inputs

STEPS_FILE = "steps.jsonl"
SUFFIXES_FILE = "suffixes.txt"
UNITS_PER_CANDIDATE = 10.0  # a pass over some sixty tokens


def gcg_files(
    *,
    model: str,
    out: Path,
    behaviors: str,
    num_prompts: int | None,
    prompt_column: str,
    settings: GcgSettings,
    num_suffixes: int,
    dtype: str,
    device: str | None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Search for suffixes, each with a seed of its own; save and return them with their losses.

    Raises:
        UserError: Bad input.
    """
    if num_suffixes < 1:
        raise UserError(f"num_suffixes must be at least 1, got {num_suffixes}")
    prompts = sampled(behaviors, num_prompts, prompt_column, settings.seed)
    searches = [
        dataclasses.replace(settings, seed=settings.seed + place) for place in range(num_suffixes)
    ]
    with held(out), reporter.running():
        units = _units(searches, prompts)
        reporter.expect(units)
        loaded, tokenizer = load_model(model, dtype=dtype, device=device)
        inputs = {
            **model_inputs(loaded, tokenizer, model_id(loaded)),
            "prompts": prompts.fingerprint,
            "searches": [dataclasses.asdict(search) for search in searches],
        }
        reporter.stage("search", units)
        compute = partial(_search, loaded, tokenizer, prompts, searches, reporter=reporter)
        record, _ = run_stage(out / "search", "gcg", inputs, compute, reporter=reporter)
        found = dict.fromkeys(row["suffix"] for row in record.result["suffixes"])
        write_text(out / SUFFIXES_FILE, "".join(f"{suffix}\n" for suffix in found))
        reporter.finish()
    return dict(record.result)


def _units(searches: list[GcgSettings], prompts: PromptSet) -> float:
    passes = sum(search.num_steps * (search.num_candidates + 2) for search in searches)
    return UNITS_PER_CANDIDATE * passes * len(prompts)


def _search(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptSet,
    searches: list[GcgSettings],
    folder: Path,
    *,
    reporter: Reporter,
) -> Output:
    path = folder / STEPS_FILE
    kept = [(row["seed"], GcgStep(**row["step"])) for row in read_lines(path)]
    share = _units(searches, prompts) / sum(search.num_steps + 1 for search in searches)
    reporter.advance(len(kept) * share, reused=True)
    found = []
    for search in searches:

        def keep(step: GcgStep, seed: int = search.seed) -> None:
            append_line(path, {"seed": seed, "step": dataclasses.asdict(step)})
            reporter.advance(share)
            reporter.detail(f"loss {step.loss:.3f}")

        done = [step for seed, step in kept if seed == search.seed]
        steps = find_suffix(model, tokenizer, prompts, search, done=done, on_step=keep)
        found.append({"suffix": steps[-1].suffix, "loss": [steps[0].loss, steps[-1].loss]})
    return Output({"suffixes": found, "num_prompts": len(prompts)}, [STEPS_FILE])
