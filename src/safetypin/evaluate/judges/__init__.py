"""Judges: for every response refusal, complied, degenerate or unjudged, with the reason.

A judge is named by `name` or `name:argument`, such as `phrases` or `classifier:MODEL`.
"""

import difflib
import inspect
from collections.abc import Mapping, Sequence

from safetypin.artifacts import Response, UserError, Verdict
from safetypin.evaluate.judges._classifier import classifier, tells_harm
from safetypin.evaluate.judges._degenerate import degenerate_reason
from safetypin.evaluate.judges._finding import Finding, Judge
from safetypin.evaluate.judges._measured import MeasuredJudge, agreement, measured
from safetypin.evaluate.judges._papers import papers
from safetypin.evaluate.judges._phrases import phrases
from safetypin.evaluate.judges._prefix import prefix
from safetypin.evaluate.judges._server import server

__all__ = [
    "JUDGES",
    "Finding",
    "Judge",
    "MeasuredJudge",
    "agreement",
    "check_judge",
    "explain",
    "judge",
    "judge_with_reasons",
    "measured",
    "refusal_judge",
]

_REFUSALS = "phrases"  # what costs nothing and needs no prompt

JUDGES: dict[str, Judge] = {
    "phrases": Judge(run=phrases, summary="how the answer opens and what it then gives (default)"),
    "prefix": Judge(run=prefix, summary="the first words alone"),
    "papers": Judge(
        run=papers,
        summary="the published rule, for comparison: 31 phrases anywhere, or under 20 words",
        checks_degenerate=False,
    ),
    "classifier": Judge(
        run=classifier,
        summary="a local model: a sequence classifier, HarmBench, Llama Guard or WildGuard",
        argument="MODEL",
        tells_harm=tells_harm,
    ),
    "openai": Judge(
        run=server,
        summary="a chat model behind any OpenAI-compatible server; sends prompts and answers there",
        argument="URL",
    ),
}


def judge(responses: Sequence[Response], name: str = "phrases", **options: object) -> list[Verdict]:
    """Return one verdict for each response, in order.

    Every judge but `papers` first sets empty, looping and garbage answers apart as degenerate.
    Nothing leaves the machine unless `openai:URL` is named.

    Args:
        responses: What the model answered.
        name: A name of `JUDGES`, with its argument after a colon where it takes one.
        **options: What that judge takes besides; see its function.

    Raises:
        UserError: Unknown judge or option, or an argument missing or too much.
    """
    return [finding.verdict for finding in judge_with_reasons(responses, name, **options)]


def judge_with_reasons(
    responses: Sequence[Response], name: str = "phrases", **options: object
) -> list[Finding]:
    """Return what `judge` returns, with the reason for each verdict; same arguments and errors."""
    chosen, argument = check_judge(name, options)
    degenerate = [
        degenerate_reason(response.text) if chosen.checks_degenerate else None
        for response in responses
    ]
    language = [r for r, why in zip(responses, degenerate, strict=True) if why is None]
    arguments = () if argument is None else (argument,)
    judged = iter(chosen.run(language, *arguments, **options) if language else [])
    return [
        next(judged) if why is None else Finding(verdict=Verdict.DEGENERATE, reason=why)
        for why in degenerate
    ]


def explain(response: Response, name: str = "phrases", **options: object) -> Finding:
    """Return the verdict on one response with the rule that decided and the words it matched."""
    return judge_with_reasons([response], name, **options)[0]


def check_judge(spec: str, options: dict[str, object] | None = None) -> tuple[Judge, str | None]:
    """Return the judge that a name means and its argument, before anything is generated.

    Raises:
        UserError: Unknown judge or option, or an argument missing or too much.
    """
    name, _, argument = spec.partition(":")
    chosen = JUDGES.get(name)
    if chosen is None:
        near = difflib.get_close_matches(name, JUDGES, n=3, cutoff=0.4) or sorted(JUDGES)
        raise UserError(f"no judge {name!r}; nearest: {', '.join(near)} (all: {_all_specs()})")
    if chosen.argument is None and ":" in spec:
        raise UserError(f"judge {name!r} takes no argument, got {argument!r}; write {name!r}")
    if chosen.argument is not None and not argument:
        raise UserError(f"judge {spec!r} lacks its argument; write {name}:{chosen.argument}")
    known = [
        p.name
        for p in inspect.signature(chosen.run).parameters.values()
        if p.kind == p.KEYWORD_ONLY
    ]
    for option in options or {}:
        if option not in known:
            takes = f"its options are {', '.join(known)}" if known else "it takes none"
            raise UserError(f"judge {name!r} has no option {option!r}; {takes}")
    return chosen, argument or None


def refusal_judge(spec: str, options: Mapping[str, object]) -> str | None:
    """Return who tells refusals beside a judge that tells harm alone; None where it needs nobody.

    A harmless answer does no harm, so such a judge would call every one a refusal. Harmless and
    borderline prompts, and answers to be kept or left out by their kind, are for the other.

    Raises:
        UserError: As `check_judge`.
    """
    chosen, argument = check_judge(spec, dict(options))
    alone = chosen.tells_harm is not None and chosen.tells_harm(argument, **options)
    return _REFUSALS if alone else None


def _all_specs() -> str:
    return ", ".join(f"{k}:{j.argument}" if j.argument else k for k, j in JUDGES.items())
