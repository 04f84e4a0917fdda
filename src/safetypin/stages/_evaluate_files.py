"""`safetypin evaluate`: a model, whole or with a saved set removed, to rates and perplexity."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import RunRecord, UserError, WeightMask, write_json
from safetypin.intervene import pruned
from safetypin.models import load_model, model_id
from safetypin.prompts import load_prompts
from safetypin.stages._audit_set import load_set, scored_hashes
from safetypin.stages._describe import describe_run
from safetypin.stages._evaluate import Suite, read_responses
from safetypin.stages._evaluate_metrics import write_evaluation
from safetypin.stages._evaluate_parts import (
    STAGES,
    UNTOUCHED,
    Extras,
    Part,
    evaluation_parts,
    summarise_extras,
)
from safetypin.stages._evaluate_summary import summarise, why_no_language
from safetypin.stages._judges import comparable, compare_judges, describe_judges, split_options
from safetypin.stages._progress import Reporter
from safetypin.stages._run import Output, held, now, run_stage
from safetypin.stages._score_files import sampled
from safetypin.stages._subject import model_inputs


def evaluate_files(
    *,
    model: str,
    mask: Path | None,
    out: Path,
    sources: Mapping[str, str],
    text: str | None,
    num_prompts: int | None,
    seed: int,
    prompt_column: str,
    max_new_tokens: int,
    batch_size: int,
    window: int,
    judge_name: str,
    judge_options: Mapping[str, Any],
    any_model: bool,
    allow_shared_prompts: bool,
    dtype: str,
    device: str | None,
    plain: bool,
    system: str | None,
    reporter: Reporter,
    extras: Extras | None = None,
    reference: str | None = None,
    chosen_set: str | None = None,
) -> dict[str, Any]:
    """Evaluate a model, whole or with a set removed; save and return the summary.

    A removed set has the values of `reference` where one is named, zeros where not. Where `mask` is
    an audit, `chosen_set` names one of its sets; the verdict's where it is None.

    Raises:
        UserError: Bad input.
    """
    _check_mask(mask, reference, chosen_set)
    extras = extras or Extras()
    judges = split_options((judge_name, *extras.also_judges), judge_options)
    suite = Suite(
        prompts={
            kind: sampled(source, num_prompts, prompt_column, seed)
            for kind, source in sources.items()
        },
        text=load_prompts(text) if text else None,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        judge=judge_name,
        judge_options=judges.pop(judge_name),
        window=window,
        plain=plain,
        system=system,
    )
    if mask and not allow_shared_prompts:
        _check_held_out(mask, suite)
    solve = extras.problems
    problems = sampled(solve, num_prompts, prompt_column, seed) if solve else None
    parts = evaluation_parts(suite, extras, problems=problems, is_removing=mask is not None)
    with held(out), reporter.running():
        reporter.expect(sum(part.suite.units for part in parts.values()))
        loaded, tokenizer = load_model(model, dtype=dtype, device=device)
        identity = model_id(loaded)
        chosen = load_set(mask, chosen_set, identity, any_model=any_model) if mask else None
        other = load_model(reference, dtype=dtype, device=device)[0] if reference else None
        for part in parts.values():
            part.suite.check(loaded, tokenizer)
        started, clock = now(), time.monotonic()
        about: dict[str, Any] = {"identity": identity, "mask": chosen, "reference": other}
        records, reused = _measure(out, parts, loaded, tokenizer, **about, reporter=reporter)
        found, before = records["evaluation"].result, records.get(UNTOUCHED)
        asked = (judge_name, max_new_tokens, suite.judge_options)
        summary = summarise(found, *asked, untouched=before.result if before else None)
        summary |= summarise_extras(records, extras, why_no_language(summary))
        if judges:
            first = (judge_name, suite.judge_options)
            summary["judges"] = _compare(out, records, first, judges, reporter)
        write_json(out / "summary.json", summary)
        seconds = round(time.monotonic() - clock, 1)
        run = describe_run(records, reused, {"started": started, "seconds": seconds})
        write_evaluation(
            out,
            summary,
            model={"name": model, "id": identity},
            mask=chosen,
            prompts=suite.prompts,
            sources=sources,
            settings=_settings(suite, extras, seed),
            run=run,
        )
        reporter.finish()
    return summary


def _check_mask(mask: Path | None, reference: str | None, chosen_set: str | None) -> None:
    """Raise if something is asked of a set, and none is named.

    Raises:
        UserError: It is.
    """
    if reference and not mask:
        raise UserError("--reference gives its values to a set; name one with --mask")
    if chosen_set is not None and not mask:
        raise UserError("--set chooses one of an audit's sets; name the audit with --mask")


def _measure(
    out: Path,
    parts: Mapping[str, Part],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    identity: str,
    mask: WeightMask | None,
    reference: PreTrainedModel | None,
    reporter: Reporter,
) -> tuple[dict[str, RunRecord], dict[str, bool]]:
    """Run every part that is not done; return their records, and whether each was there."""
    records, reused = {}, {}
    for name, part in parts.items():
        removed, values = (None, None) if name == UNTOUCHED else (mask, reference)
        inputs = {
            **model_inputs(model, tokenizer, identity),
            "mask": removed and removed.fingerprint,
            "suite": part.suite.inputs,
            **({"reference_id": model_id(values)} if values else {}),
        }
        compute = partial(
            _compute, part, model, tokenizer, removed, reference=values, reporter=reporter
        )
        reporter.stage(name, part.suite.units)
        records[name], reused[name] = run_stage(
            out / name, STAGES[name], inputs, compute, reporter=reporter
        )
    return records, reused


def _settings(suite: Suite, extras: Extras, seed: int) -> dict[str, Any]:
    """Return what the page lists: no suffix, which stay in the record of the attacks."""
    own = {key: value for key, value in suite.inputs.items() if key not in ("prompts", "text")}
    tasks = extras.zero_shot
    return own | {
        "seed": seed,
        "attacks": [how.name for how in extras.attacks],
        "zero_shot": list(tasks.tasks) if tasks else [],
        "limit": tasks and tasks.limit,
        "problems": extras.problems,
        "also_judges": list(extras.also_judges),
    }


def _compute(
    part: Part,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    mask: WeightMask | None,
    folder: Path,
    *,
    reference: PreTrainedModel | None,
    reporter: Reporter,
) -> Output:
    removed: AbstractContextManager[object] = (
        pruned(model, mask, reference=reference) if mask else nullcontext()
    )
    with removed:
        return part.measure(folder, model, tokenizer, part.suite, reporter=reporter)


def _compare(
    out: Path,
    records: Mapping[str, RunRecord],
    first: tuple[str, Mapping[str, Any]],
    others: Mapping[str, Mapping[str, Any]],
    reporter: Reporter,
) -> dict[str, Any]:
    """Judge all answers by the other judges too, and return how they agree."""
    found = records["evaluation"].result["verdicts"]
    kinds = comparable(found, {first[0]: first[1], **others})
    main = {kind: found[kind] for kind in kinds}
    answers = {kind: read_responses(out / "evaluation", kind) for kind in main}
    if attacked := records.get("attacks"):
        for attack, rows in attacked.result["verdicts"].items():
            kind = f"attack-{attack}"
            main[kind] = [verdict for row in rows for verdict in row]
            answers[kind] = read_responses(out / "attacks", kind)
    files = [records[part].files for part in ("evaluation", "attacks") if part in records]
    inputs: dict[str, Any] = {"judges": others, "answers": files}
    if len(kinds) < len(found):
        inputs["kinds"] = kinds
        reporter.note("a judge that tells harm alone is compared on harmful prompts only")
    reporter.stage("judges")
    record, _ = run_stage(
        out / "judges",
        "judge",
        inputs,
        partial(compare_judges, answers, others),
        reporter=reporter,
    )
    return describe_judges(first[0], main, record.result)


def _check_held_out(mask: Path, suite: Suite) -> None:
    """Raise if a set was scored on what its effect would be measured on.

    Raises:
        UserError: It was.
    """
    scored_on = scored_hashes(mask)
    measured = {f"the {kind} prompts": asked.hashes for kind, asked in suite.prompts.items()}
    if suite.text:
        measured["the texts for the perplexity"] = suite.text.text_hashes
    for what, hashes in measured.items():
        if shared := [text for key, text in hashes.items() if key in scored_on]:
            raise UserError(
                f"the set in {mask} was scored on {len(shared)} of {what} to evaluate on, first "
                f"{shared[0][:60]!r}; use others, or allow it with --allow-shared-prompts"
            )
