"""`safetypin evaluate`: a model, whole or with a saved set removed, to rates and perplexity."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import PromptSet, RunRecord, UserError, Verdict, WeightMask, write_json
from safetypin.evaluate import Attack, check_judge, check_tasks, rate_of
from safetypin.intervene import pruned
from safetypin.models import load_model, model_id
from safetypin.prompts import load_prompts
from safetypin.stages._attacks import (
    MAX_DEGENERATE,
    AttackSuite,
    attack_model,
    describe_attacks,
)
from safetypin.stages._describe import describe_judge
from safetypin.stages._evaluate import Suite, evaluate_model
from safetypin.stages._progress import Reporter
from safetypin.stages._rates import finite, read_perplexity
from safetypin.stages._run import Output, held, run_stage
from safetypin.stages._score_files import PROMPT_HASHES, sampled
from safetypin.stages._sets import load_mask
from safetypin.stages._zero_shot import (
    ProblemSuite,
    ZeroShotSuite,
    describe_problems,
    describe_zero_shot,
    solve_problems,
    zero_shot_model,
)

# the folder of each part, and the stage that its record names
STAGES = {
    "evaluation": "evaluate",
    "attacks": "attack",
    "zero-shot": "zero-shot",
    "problems": "solve",
}
SHOWN = (Verdict.REFUSAL, Verdict.COMPLIED, Verdict.DEGENERATE)


@runtime_checkable
class Measured(Protocol):
    """What a part of an evaluation measures: a suite of one kind or another."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What the results depend on."""

    @property
    def units(self) -> float:
        """Work in units of about one generated token."""

    def check(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise before the work if something does not fit the model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """One stage of an evaluation: its suite, and what measures it into a folder."""

    suite: Measured
    measure: Callable[..., Output]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extras:
    """What is measured besides the answers and the perplexity.

    Attributes:
        attacks: On the harmful prompts.
        zero_shot: Multiple-choice tasks; none where None.
        problems: Source of problems with solutions, to be solved by exact match.
        problem_tokens: Where their answers are cut off.
    """

    attacks: tuple[Attack, ...] = ()
    zero_shot: ZeroShotSuite | None = None
    problems: str | None = None
    problem_tokens: int = 256


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
) -> dict[str, Any]:
    """Evaluate a model, whole or with a set removed; save and return the summary.

    Raises:
        UserError: Bad input.
    """
    check_judge(judge_name, dict(judge_options))
    suite = Suite(
        prompts={
            kind: sampled(source, num_prompts, prompt_column, seed)
            for kind, source in sources.items()
        },
        text=load_prompts(text) if text else None,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        judge=judge_name,
        judge_options=judge_options,
        window=window,
        plain=plain,
        system=system,
    )
    if mask and not allow_shared_prompts:
        _check_held_out(mask, suite.prompts)
    extras = extras or Extras()
    solve = extras.problems
    problems = sampled(solve, num_prompts, prompt_column, seed) if solve else None
    parts = _parts(suite, extras, problems=problems)
    with held(out), reporter.running():
        reporter.expect(sum(part.suite.units for part in parts.values()))
        loaded, tokenizer = load_model(model, dtype=dtype, device=device)
        identity = model_id(loaded)
        chosen = load_mask(mask, identity, any_model=any_model) if mask else None
        for part in parts.values():
            part.suite.check(loaded, tokenizer)
        records = {}
        for name, part in parts.items():
            inputs = {
                "model_id": identity,
                "dtype": str(loaded.dtype),
                "mask": chosen and chosen.fingerprint,
                "suite": part.suite.inputs,
            }
            compute = partial(_compute, part, loaded, tokenizer, chosen, reporter=reporter)
            reporter.stage(name, part.suite.units)
            records[name], _ = run_stage(
                out / name, STAGES[name], inputs, compute, reporter=reporter
            )
        summary = summarise(records["evaluation"].result, judge_name, max_new_tokens)
        summary |= _summarise_extras(records, extras)
        write_json(out / "summary.json", summary)
        reporter.finish()
    return summary


def _parts(suite: Suite, extras: Extras, *, problems: PromptSet | None) -> dict[str, _Part]:
    parts = {"evaluation": _Part(suite=suite, measure=evaluate_model)}
    if extras.attacks:
        parts["attacks"] = _Part(suite=_attack_suite(suite, extras.attacks), measure=attack_model)
    if extras.zero_shot:
        check_tasks(extras.zero_shot.tasks)
        parts["zero-shot"] = _Part(suite=extras.zero_shot, measure=zero_shot_model)
    if problems:
        asked = ProblemSuite(
            problems=problems,
            max_new_tokens=extras.problem_tokens,
            batch_size=suite.batch_size,
            plain=suite.plain,
            system=suite.system,
        )
        parts["problems"] = _Part(suite=asked, measure=solve_problems)
    return parts


def _summarise_extras(records: Mapping[str, RunRecord], extras: Extras) -> dict[str, Any]:
    named = {how.name: how for how in extras.attacks}
    describe: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
        "attacks": partial(describe_attacks, named),
        "zero-shot": describe_zero_shot,
        "problems": describe_problems,
    }
    return {
        name.replace("-", "_"): describe[name](record.result)
        for name, record in records.items()
        if name in describe
    }


def _attack_suite(suite: Suite, attacks: tuple[Attack, ...]) -> AttackSuite:
    if "harmful" not in suite.prompts:
        raise UserError("attacks need harmful prompts; give --harmful a file or a source")
    return AttackSuite(
        attacks=attacks,
        prompts=suite.prompts["harmful"],
        max_new_tokens=suite.max_new_tokens,
        batch_size=suite.batch_size,
        judge=suite.judge,
        judge_options=suite.judge_options,
        plain=suite.plain,
        system=suite.system,
    )


def _compute(
    part: _Part,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    mask: WeightMask | None,
    folder: Path,
    *,
    reporter: Reporter,
) -> Output:
    removed: AbstractContextManager[object] = pruned(model, mask) if mask else nullcontext()
    with removed:
        return part.measure(folder, model, tokenizer, part.suite, reporter=reporter)


def _check_held_out(mask: Path, prompts: Mapping[str, PromptSet]) -> None:
    """Raise if a set was scored on prompts that its effect would be measured on.

    Raises:
        UserError: It was.
    """
    scored_on = RunRecord.read(mask).inputs.get(PROMPT_HASHES, [])
    for kind, asked in prompts.items():
        if shared := [text for key, text in asked.hashes.items() if key in set(scored_on)]:
            raise UserError(
                f"the set in {mask} was scored on {len(shared)} of the {kind} prompts to evaluate "
                f"on, first {shared[0][:60]!r}; use other prompts, or allow it with "
                "--allow-shared-prompts"
            )


def summarise(
    result: Mapping[str, Any], judge_name: str, max_new_tokens: int | None = None
) -> dict[str, Any]:
    """Return the rates of every verdict by kind of prompt, the ASR, the judge, the perplexity.

    The ASR is None where the model no longer speaks, as in an audit.
    """
    summary: dict[str, Any] = {"judge": describe_judge(judge_name, max_new_tokens)}
    shares = {}
    for kind, values in result["verdicts"].items():
        verdicts = [Verdict(value) for value in values]
        found = {verdict: rate_of(verdicts, verdict) for verdict in SHOWN}
        summary[kind] = {verdict.value: rate.to_json() for verdict, rate in found.items()}
        shares[kind] = found[Verdict.DEGENERATE].value or 0.0
    if result["perplexity"] is not None:
        measured = read_perplexity(result["perplexity"])
        value = finite(measured.value)
        summary["perplexity"] = {"value": value, "num_tokens": measured.num_tokens}
    if "harmful" in result["verdicts"]:
        why = _why_no_asr(summary, shares)
        summary["asr"] = None if why else summary["harmful"][Verdict.COMPLIED.value]
        summary["why_no_asr"] = why
    return summary


def _why_no_asr(summary: Mapping[str, Any], shares: Mapping[str, float]) -> str | None:
    for kind in ("harmful", "harmless"):
        if shares.get(kind, 0.0) > MAX_DEGENERATE:
            return f"{shares[kind]:.0%} of the answers to {kind} prompts are degenerate"
    if "perplexity" in summary and summary["perplexity"]["value"] is None:
        return "the perplexity overflowed"
    return None
