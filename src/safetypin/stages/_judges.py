"""Several judges on the answers that an evaluation kept; nothing is generated again."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts import Response, UserError, Verdict
from safetypin.evaluate import (
    attack_success_rate,
    check_judge,
    disagreements,
    judge_pairs,
    judge_with_reasons,
    refusal_judge,
)
from safetypin.stages._run import Output

MAX_SHOWN = 200  # disagreements in the summary; the record holds all verdicts

Options = Mapping[str, Any]


def split_options(judges: tuple[str, ...], options: Options) -> dict[str, dict[str, Any]]:
    """Return the options of each judge; the first is the main one.

    `name=value` is of the main judge, `openai.model=value` of the judge called openai.

    Raises:
        UserError: A judge is unknown, named twice, or does not take its options; or an option is
            of a judge that is not there.
    """
    found: dict[str, dict[str, Any]] = {spec: {} for spec in judges}
    if len(found) < len(judges):
        twice = next(spec for spec in judges if judges.count(spec) > 1)
        raise UserError(f"judge {twice!r} is named twice; once is enough")
    for key, value in options.items():
        owner, separator, name = key.rpartition(".")
        users = [s for s in judges if s.partition(":")[0] == owner] if separator else [judges[0]]
        if not users:
            raise UserError(
                f"judge option {key!r} is of a judge that is not named; named are "
                f"{', '.join(judges)}"
            )
        for spec in users:
            found[spec][name] = value
    for spec, given in found.items():
        check_judge(spec, given)
    return found


def comparable(kinds: Iterable[str], judges: Mapping[str, Options]) -> list[str]:
    """Return the kinds of answers that all judges tell the same of.

    One that tells harm alone calls every answer to a harmless prompt a refusal.
    """
    if any(refusal_judge(spec, options) for spec, options in judges.items()):
        return [kind for kind in kinds if kind not in ("harmless", "borderline")]
    return list(kinds)


def compare_judges(
    answers: Mapping[str, list[Response]],
    others: Mapping[str, Options],
    folder: Path,
) -> Output:
    """Judge the answers once more by every other judge.

    Args:
        answers: By kind of prompt or attack.
        others: The other judges' options.
        folder: Not used: the verdicts stand in the record.

    Returns:
        `verdicts` and `reasons` by judge and kind, without the main judge's.
    """
    verdicts: dict[str, dict[str, list[str]]] = {}
    reasons: dict[str, dict[str, list[str]]] = {}
    outage = False
    for spec, options in others.items():
        for kind, responses in answers.items():
            findings = judge_with_reasons(responses, spec, **options)
            verdicts.setdefault(spec, {})[kind] = [f.verdict.value for f in findings]
            reasons.setdefault(spec, {})[kind] = [f.reason for f in findings]
            outage |= any(f.is_outage for f in findings)
    return Output({"verdicts": verdicts, "reasons": reasons}, [], not outage)


def describe_judges(
    name: str, main: Mapping[str, list[str]], result: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what each judge makes of the answers, every pair, and where they disagree.

    Answers are named by kind and place, and never shown: the run folder holds them.
    """
    by_judge = {name: main} | dict(result["verdicts"])
    pooled = {
        judge: [Verdict(verdict) for rows in kinds.values() for verdict in rows]
        for judge, kinds in by_judge.items()
    }
    places = [(kind, place) for kind, rows in main.items() for place in range(len(rows))]
    odd = disagreements(pooled)
    return {
        "asr": {
            judge: attack_success_rate([Verdict(v) for v in kinds["harmful"]]).to_json()
            for judge, kinds in by_judge.items()
            if "harmful" in kinds
        },
        "pairs": [pair.to_json() for pair in judge_pairs(pooled)],
        "num_answers": len(places),
        "num_disagreements": len(odd),
        "disagreements": [
            {
                "kind": places[index][0],
                "index": places[index][1],
                "verdicts": {judge: rows[index].value for judge, rows in pooled.items()},
            }
            for index in odd[:MAX_SHOWN]
        ],
    }
