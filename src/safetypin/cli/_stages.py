"""One command a stage, from files to files."""

import json
from pathlib import Path
from typing import Annotated

import typer

from safetypin import stages
from safetypin.artifacts import UserError, Verdict
from safetypin.cli._options import (
    DeviceOption,
    DtypeOption,
    JudgeOption,
    ModelArgument,
    OutOption,
    PlainOption,
    QuietOption,
    SetOption,
    SystemOption,
    VerboseOption,
    names,
    refuse_beside,
    reporting,
)
from safetypin.evaluate import AFFIRMATION, ATTACKS, NUM_SAMPLES, judge_options, make_attacks
from safetypin.prompts import CHOICE_SETS, read_suffixes
from safetypin.report import write_report
from safetypin.scores import SCORERS

PROBLEM_TOKENS = stages.Extras.problem_tokens
KEPT = (Verdict.REFUSAL.value, Verdict.COMPLIED.value)


def score(
    model: ModelArgument,
    prompts: Annotated[str, typer.Option(help="File, source name or Hub id.", show_default=False)],
    out: OutOption,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(SCORERS)}.")] = "snip",
    reference: Annotated[str | None, typer.Option(help="The model that magnitude-difference compares with, such as MODEL's base.", show_default=False)] = None,
    keep: Annotated[
        str,
        typer.Option(help="Prompts without responses are answered by the model; keep its answers that are: refusal, complied or all."),
    ] = "all",
    num_prompts: Annotated[int | None, typer.Option(min=1, help="Take a random sample of so many, as an audit does.")] = None,
    prompt_column: Annotated[str, typer.Option(help="Column of the prompt in files.")] = "prompt",
    counted: Annotated[str | None, typer.Option(help="Tokens that Wanda and SparseGPT count: response (the default), predictive, prompt, last or all.", show_default=False)] = None,
    reduction: Annotated[str | None, typer.Option(help="SNIP's loss over a response: mean (the default) or sum.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Prompts in a batch of scores; 8 where left out.", show_default=False)] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where an own answer is cut off.")] = 32,
    targets: Annotated[str | None, typer.Option(help="Modules to score, comma-separated patterns.")] = None,
    judge: Annotated[str, typer.Option(help="Judge of own answers.")] = "phrases",
    judge_option: JudgeOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    plain: PlainOption = False,
    system: SystemOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample, and of the random score.")] = 0,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """Score every block weight of MODEL by its importance for the prompts.

    Example: `safetypin score smollm2-aligned --prompts builtin-harmful:calibration --keep refusal --out runs/safety`
    """
    how = stages.Scoring(
        method=method,
        counted=counted or stages.Scoring.counted,
        reduction=reduction or stages.Scoring.reduction,
        batch_size=batch_size or stages.Scoring.batch_size,
        targets=names(targets),
        seed=seed,
        plain=plain,
        system=system,
    )
    given = {"counted": counted, "reduction": reduction, "batch_size": batch_size}
    stages.refuse_idle(given, stages.idle_score_options(method))
    record = stages.score_files(
        model=model,
        prompts=prompts,
        out=out,
        how=how,
        keep=None if keep == "all" else _kept(keep),
        num_prompts=num_prompts,
        prompt_column=prompt_column,
        max_new_tokens=max_new_tokens,
        judge_name=judge,
        judge_options=judge_options(judge_option or ()),
        dtype=dtype,
        device=device,
        reporter=reporting(out, quiet=quiet, verbose=verbose),
        reference=reference,
    )
    typer.echo(
        f"{record.result['num_matrices']} matrices scored on {record.result['num_examples']} "
        f"examples in {out}"
    )


def _kept(name: str) -> Verdict:
    if name not in KEPT:
        raise UserError(f"--keep {name!r} is unknown; choose one of {', '.join(KEPT)}, all")
    return Verdict(name)


def select(
    safety: Annotated[Path, typer.Argument(help="Scores on safety prompts: a folder of `score`.", show_default=False)],
    utility: Annotated[Path | None, typer.Argument(help="Scores on utility prompts; none is subtracted where missing.", show_default=False)] = None,
    *,
    out: OutOption,
    q: Annotated[float | None, typer.Option(help="Share of the safety top: 0.01, the default, is 1 %.", show_default=False)] = None,
    p: Annotated[float | None, typer.Option(help="Share of the utility top; 0.01 where none is given.", show_default=False)] = None,
    group: Annotated[str | None, typer.Option(help="row, matrix (the default), layer or model.", show_default=False)] = None,
    pattern: Annotated[str | None, typer.Option(help="Take N of every M neighbouring inputs of a row, such as 2:4, in place of --q, --p and --group.", show_default=False)] = None,
    safest: Annotated[bool, typer.Option("--safest", help="Take the lowest safety scores: the weights that safety needs least.")] = False,
    control: Annotated[str | None, typer.Option(help="Save a control of the set's size instead: random, matched, top_utility or top_safety.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of --control random and matched; 0 where left out.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="The scored model; --control random and matched need it.", show_default=False)] = None,
) -> None:  # fmt: skip
    """Select the safety-critical set: the top q of safety minus the top p of utility.

    Example: `safetypin select runs/safety runs/utility --q 0.01 --p 0.01 --out runs/set`
    """
    if pattern is not None:
        refuse_beside("--pattern", {"--q": q, "--p": p, "--group": group})
    idle = stages.idle_select_options(control, subtracts=utility is not None)
    stages.refuse_idle({"p": p, "seed": seed, "model": model}, idle)
    record = stages.select_files(
        safety=safety,
        utility=utility,
        out=out,
        q=0.01 if q is None else q,
        p=0.01 if p is None else p,
        group=group or "matrix",
        pattern=pattern,
        safest=safest,
        control=control,
        seed=seed or 0,
        model=model,
    )
    result = record.result
    typer.echo(
        f"{result['num_selected']:,} of {result['num_weights']:,} weights "
        f"({result['fraction']:.3%}) in {out}"
    )


def prune(
    model: ModelArgument,
    mask: Annotated[Path, typer.Option(help="The set: a folder of `select` or of an audit.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the pruned model.", show_default=False)],
    set: SetOption = None,
    reference: Annotated[str | None, typer.Option(help="Take this model's values instead of zero.")] = None,
    any_model: Annotated[bool, typer.Option("--any-model", help="Use a set of another model of the same shape.")] = False,
    dtype: Annotated[str, typer.Option(help="checkpoint (as MODEL is saved), float32, bfloat16 or float16.")] = "checkpoint",
) -> None:  # fmt: skip
    """Remove a set from MODEL and save what is left as an ordinary Hugging Face folder.

    Example: `safetypin prune smollm2-aligned --mask runs/set --out runs/pruned`
    """
    record = stages.prune_files(
        model=model,
        mask=mask,
        chosen_set=set,
        out=out,
        reference=reference,
        any_model=any_model,
        dtype=dtype,
    )
    typer.echo(f"{record.result['num_selected']:,} weights removed, the model is in {out}")


def evaluate(
    model: ModelArgument,
    out: OutOption,
    mask: Annotated[Path | None, typer.Option(help="Evaluate with this set removed: a folder of `select` or of an audit.")] = None,
    set: SetOption = None,
    reference: Annotated[str | None, typer.Option(help="Give the set this model's values instead of zero.", show_default=False)] = None,
    harmful: Annotated[str | None, typer.Option(help="Harmful prompts, for the ASR.")] = "builtin-harmful:evaluation",
    harmless: Annotated[str | None, typer.Option(help="Harmless prompts, for over-refusal.")] = "builtin-harmless:evaluation",
    borderline: Annotated[str | None, typer.Option(help="Borderline prompts.")] = "builtin-borderline",
    text: Annotated[str | None, typer.Option(help="Texts for the perplexity.")] = "builtin-text",
    num_prompts: Annotated[int | None, typer.Option(min=1, help="Take a random sample of so many of each set, as an audit does.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples of prompts, and of the draws of --attack decoding.")] = 0,
    prompt_column: Annotated[str, typer.Option(help="Column of the prompt in files.")] = "prompt",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where an answer is cut off.")] = 32,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts in a batch.")] = 32,
    window: Annotated[int, typer.Option(min=2, help="Most tokens of a text for the perplexity.")] = 512,
    judge: Annotated[str, typer.Option(help="Name of the judge.")] = "phrases",
    also_judge: Annotated[str | None, typer.Option(help="Judges of the same answers, comma-separated, to compare; their options are --judge-option JUDGE.name=value.")] = None,
    judge_option: JudgeOption = None,
    any_model: Annotated[bool, typer.Option("--any-model", help="Use a set of another model of the same shape.")] = False,
    allow_shared_prompts: Annotated[bool, typer.Option("--allow-shared-prompts", help="Let prompts that the set was scored on be evaluated on.")] = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    plain: PlainOption = False,
    system: SystemOption = None,
    attack: Annotated[str | None, typer.Option(help=f"Attacks on the harmful prompts, comma-separated, of {', '.join(ATTACKS)}.")] = None,
    suffixes: Annotated[Path | None, typer.Option(help="File with a suffix a line, for --attack suffix.")] = None,
    num_samples: Annotated[int | None, typer.Option(min=1, help=f"Answers to every prompt, for --attack decoding; {NUM_SAMPLES} where left out.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of --attack decoding; 1 where left out.")] = None,
    prefill: Annotated[str | None, typer.Option(help=f"How the answer begins, for --attack prefill; {AFFIRMATION!r} where left out.")] = None,
    zero_shot: Annotated[str | None, typer.Option(help=f"Multiple-choice tasks, comma-separated: {', '.join(CHOICE_SETS)}, or any of lm-eval. Needs the extra [zero-shot].")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each --zero-shot task, drawn by --seed; all where left out.")] = None,
    gsm8k: Annotated[str | None, typer.Option(help="Problems with solutions to solve, such as gsm8k-100; by exact match.")] = None,
    gsm8k_tokens: Annotated[int | None, typer.Option(min=1, help=f"Where an answer to --gsm8k is cut off; {PROBLEM_TOKENS} where left out.")] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """Measure MODEL's refusals and perplexity, whole or with a set removed.

    Example: `safetypin evaluate smollm2-aligned --mask runs/set --harmful advbench --out runs/eval`
    """
    for option, value, owner in (
        ("--limit", limit, zero_shot),
        ("--gsm8k-tokens", gsm8k_tokens, gsm8k),
    ):
        if value is not None and not owner:
            raise UserError(
                f"{option} is given without what it is for; see `safetypin evaluate --help`"
            )
    extras = stages.Extras(
        attacks=make_attacks(
            names(attack) or (),
            suffixes=read_suffixes(suffixes) if suffixes else None,
            num_samples=num_samples,
            temperature=temperature,
            prefill=prefill,
            seed=seed,
        ),
        zero_shot=stages.ZeroShotSuite(tasks=names(zero_shot) or (), limit=limit, seed=seed)
        if zero_shot
        else None,
        problems=gsm8k,
        problem_tokens=gsm8k_tokens or PROBLEM_TOKENS,
        also_judges=names(also_judge) or (),
    )
    sources = {"harmful": harmful, "harmless": harmless, "borderline": borderline}
    summary = stages.evaluate_files(
        model=model,
        mask=mask,
        chosen_set=set,
        reference=reference,
        out=out,
        sources={kind: source for kind, source in sources.items() if source},
        text=text or None,
        num_prompts=num_prompts,
        seed=seed,
        prompt_column=prompt_column,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        window=window,
        judge_name=judge,
        judge_options=judge_options(judge_option or ()),
        any_model=any_model,
        allow_shared_prompts=allow_shared_prompts,
        dtype=dtype,
        device=device,
        plain=plain,
        system=system,
        reporter=reporting(out, quiet=quiet, verbose=verbose),
        extras=extras,
    )
    typer.echo(json.dumps(summary, indent=1))


def report(
    folder: Annotated[
        Path, typer.Argument(help="A folder of audit, tune, track or run.", show_default=False)
    ],
) -> None:
    """Write report.html anew from the numbers of an audit, a tune, a track or an experiment.

    Example: `safetypin report runs/demo`
    """
    typer.echo(f"report: {write_report(folder)}")
