"""Gates: conditions on the numbers of a run, such as `asr<=0.1`, that set its exit code."""

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from safetypin.artifacts import UserError
from safetypin.stages._settings import nearest

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
Kind = Literal["share", "change", "number"]
BOUNDS: dict[Kind, tuple[float, float]] = {
    "share": (0.0, 1.0),
    "change": (-1.0, 1.0),
    "number": (-math.inf, math.inf),
}
UNJUDGED = "no answer could be judged"
OVERFLOWED = "the perplexity overflowed"
NO_EXACT = "no held-out problem was answered; ask for it with --exact-match"
NO_TASK = "no task data was held out, or its loss overflowed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gauge:
    """A number that a gate can be set on.

    Attributes:
        about: What it is, in one line.
        path: Where metrics.json has it.
        kind: A share in [0, 1], a change of a share in [-1, 1], or any number.
        missing: Why it may be n/a.
    """

    about: str
    path: tuple[str, ...]
    kind: Kind
    missing: str


def _rate(name: str, about: str) -> Gauge:
    return Gauge(about=about, path=("after", name, "value"), kind="share", missing=UNJUDGED)


def _rise(name: str, about: str) -> Gauge:
    return Gauge(about=about, path=("paired", name, "value"), kind="change", missing=UNJUDGED)


def _number(path: str, missing: str, about: str) -> Gauge:
    return Gauge(about=about, path=tuple(path.split(".")), kind="number", missing=missing)


GAUGES: dict[str, Gauge] = {
    "asr": _rate("asr", "share of harmful prompts complied with"),
    "asr_rise": _rise("asr", "change of the ASR on the same prompts"),
    "over_refusal": _rate("harmless_refused", "share of harmless prompts refused"),
    "over_refusal_rise": _rise("over_refusal", "change of that share on the same prompts"),
    "borderline_refusal": _rate("borderline_refused", "share of borderline prompts refused"),
    "borderline_refusal_rise": _rise("borderline_refusal", "change of that share"),
    "degenerate": _rate("degenerate", "share of degenerate answers to harmful prompts"),
    "perplexity": _number("after.perplexity.value", OVERFLOWED, "on plain text"),
    "perplexity_ratio": _number("perplexity_ratio", OVERFLOWED, "after over before, plain text"),
    "task_loss": _number("after.task.loss", NO_TASK, "nats a token of held-out responses"),
    "task_perplexity_ratio": _number(
        "task_perplexity_ratio", NO_TASK, "after over before, held-out responses"
    ),
    "exact_match": Gauge(
        about="share of held-out problems solved",
        path=("after", "task", "exact_match", "value"),
        kind="share",
        missing=NO_EXACT,
    ),
    "exact_match_rise": Gauge(
        about="change of that share on the same problems",
        path=("paired", "exact_match", "value"),
        kind="change",
        missing=NO_EXACT,
    ),
}
# gauges on plain text, and where metrics.json has the same on the task
ON_TEXT = {"perplexity": "after.task.perplexity", "perplexity_ratio": "task_perplexity_ratio"}
# gauges that are measured on held-out examples
OF_TASK = ("task_loss", "task_perplexity_ratio", "exact_match", "exact_match_rise")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """One condition: the gauge `name` compared with `limit`."""

    text: str
    name: str
    operator: str
    limit: float


def parse_gate(text: str) -> Gate:
    """Read a gate such as `asr<=0.1`.

    Raises:
        UserError: It is no condition, its name is unknown, or its limit can never matter.
    """
    parts = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*", text)
    if parts is None:
        raise UserError(
            f"gate {text!r} is no condition; write a name, one of {' '.join(OPERATORS)}, and a "
            "number, such as 'asr<=0.1'"
        )
    name, sign, number = parts.groups()
    if name not in GAUGES:
        near = nearest(name, GAUGES)
        raise UserError(
            f"gate {text!r}: unknown name {name!r}{near}; known are {', '.join(GAUGES)}"
        )
    limit = _limit(text, number, GAUGES[name].kind)
    return Gate(text=f"{name}{sign}{number}", name=name, operator=sign, limit=limit)


def _limit(text: str, number: str, kind: Kind) -> float:
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise UserError(f"gate {text!r}: {number!r} is no number; 10 % is 0.1")
    low, high = BOUNDS[kind]
    if not low <= limit <= high:
        percent = f"; {limit:g} % is {limit / 100:g}" if abs(limit) <= 100 else ""
        raise UserError(
            f"gate {text!r}: the limit must be between {low:g} and {high:g}, got {limit:g}{percent}"
        )
    return limit


def _interval(name: str, metrics: Mapping[str, Any]) -> list[float] | None:
    """Return the 95 % interval of a gate's number, where one was measured."""
    *above, last = GAUGES[name].path
    found = _at(metrics, above if last == "value" else ("paired", last))
    ends = found.get("interval") if isinstance(found, Mapping) else None
    return None if ends is None else [float(end) for end in ends]


def judge_gate(gate: Gate, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the gate's part of metrics.json; a value that is n/a never holds."""
    value = _at(metrics, GAUGES[gate.name].path)
    holds = value is not None and OPERATORS[gate.operator](value, gate.limit)
    return {
        "gate": gate.text,
        "name": gate.name,
        "operator": gate.operator,
        "limit": gate.limit,
        "value": value,
        "interval": _interval(gate.name, metrics),
        "holds": holds,
        "why": _why_missing(gate.name, metrics) if value is None else None,
        "beside": _beside(gate.name, metrics),
    }


def _at(metrics: Mapping[str, Any], path: Sequence[str]) -> Any:  # noqa: ANN401 - any of JSON's
    value: Any = metrics
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _beside(name: str, metrics: Mapping[str, Any]) -> str | None:
    """Return what the task says, beside a number that is on plain text."""
    if name not in ON_TEXT:
        return None
    found = _at(metrics, ON_TEXT[name].split("."))
    shown = "n/a" if found is None else f"{found:.4g}"
    return f"on plain text; on the task {shown}"


def _why_missing(name: str, metrics: Mapping[str, Any]) -> str:
    destroyed = metrics["after"]["destroyed"]
    if destroyed and name in {"asr", "asr_rise"}:
        return f"the tuned model is destroyed: {destroyed}"
    return GAUGES[name].missing
