"""Numbers as text: the same spelling in the page, the figures and the terminal."""

import datetime
import math

from safetypin.artifacts import Rate
from safetypin.report._metrics import Judge

NONE = "n/a"
_SPACE = "\u00a0"  # a number and its unit stay on one line
_MINUS = "\u2212"
_INFINITE = "\u221e"

ANSWERS = {"brittle": "Brittle", "not shown": "Not shown", "undecided": "Undecided"}
ARMS = {
    "critical": "safety-critical set",
    "random": "random",
    "matched": "random, matched on |w|",
    "top_utility": "top utility",
    "top_safety": "top safety",
}
GROUPS = {
    "row": "each row of a matrix",
    "matrix": "each matrix",
    "layer": "each layer",
    "model": "the whole model",
}
VERDICTS = {
    "refusal": "refused",
    "complied": "complied",
    "degenerate": "degenerate",
    "unjudged": "not judged",
}


def percent(value: float | None, num_trials: int = 1) -> str:
    """Return a rate in percent, finely enough that 1 of `num_trials` never reads as 0 %."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{100 * value:.{1 if num_trials >= 200 else 0}f}{_SPACE}%"


def rate(given: Rate | None) -> str:
    """Return the rate in percent, or "n/a"."""
    return NONE if given is None else percent(given.value, given.num_judged)


def counts(given: Rate | None) -> str:
    """Return numerator and denominator, and how many answers no judge could decide."""
    if given is None:
        return ""
    unjudged = f", {given.num_unjudged} not judged" if given.num_unjudged else ""
    return f"{given.num_hits}/{given.num_judged}{unjudged}"


def bounds(given: Rate | None) -> str:
    """Return the 95 % interval of a rate, in percent."""
    if given is None or given.interval is None:
        return ""
    low, high = (
        percent(end, given.num_judged).removesuffix(f"{_SPACE}%") for end in given.interval
    )
    return f"{low}\u2013{high}{_SPACE}%"


def points(value: float | None) -> str:
    """Return a difference of two rates in percentage points, always signed."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{_signed(value)}{_SPACE}points"


def points_interval(interval: tuple[float, float] | None) -> str:
    """Return an interval of a difference, in percentage points."""
    return NONE if interval is None else f"{_signed(interval[0])} to {_signed(interval[1])}"


def _signed(value: float) -> str:
    rounded = round(100 * value)
    sign = "+" if rounded > 0 else _MINUS if rounded < 0 else ""
    return f"{sign}{abs(rounded)}"


def share(value: float | None, digits: int = 2) -> str:
    """Return a share of weights in percent, to `digits` significant digits."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return f"0{_SPACE}%"
    size = 100 * value
    places = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{size:.{places}f}{_SPACE}%"


def setting(value: float) -> str:
    """Return a fraction that the user set in percent, exactly: 0.5 %."""
    return f"{100 * value:g}{_SPACE}%"


def value(given: object) -> str:
    """Return the value of a setting as a settings file has it, "none" where it has none."""
    if isinstance(given, list | tuple):
        return ", ".join(value(item) for item in given) or "none"
    if isinstance(given, bool):
        return "true" if given else "false"
    return "none" if given is None else f"{given:g}" if isinstance(given, float) else str(given)


def ratio(value: float | None) -> str:
    """Return a perplexity ratio: 1.07×, 23×, 13,000×."""
    shown = number(value, exact_below=10.0)
    return shown if shown in (NONE, _INFINITE) else f"{shown}\u00d7"


def number(value: float | None, *, exact_below: float = 100.0) -> str:
    """Return a plain number, such as a perplexity: 11.37, 306,499, 1.2e9."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return _INFINITE
    if value >= 1e7:
        return f"{value:.1e}".replace("e+", "e").replace("e0", "e")
    return f"{value:,.2f}" if value < exact_below else f"{value:,.0f}"


def decimal(value: float | None, digits: int = 2) -> str:
    """Return a number to so many places, such as a loss: 1.65."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.{digits}f}".replace("-", _MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """Return a difference to so many places, always with its sign: +0.12."""
    shown = decimal(value, digits)
    return f"+{shown}" if value is not None and value > 0 and shown != NONE else shown


def percent_change(value: float | None) -> str:
    """Return a relative change: −23 %, +40 %, and from a doubling on 2×, 16×."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{_signed(value)}{_SPACE}%" if value < 1 else f"{1 + value:.3g}\u00d7"


def figures(value: float | None, digits: int = 3) -> str:
    """Return a small number to so many significant digits: 0.0121, 1.2e-7."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("-", _MINUS)


def amount(value: float) -> str:
    """Return a count, in thousands or millions where it is large: 12k, 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def p_value(value: float | None) -> str:
    """Return "p = 0.02", "p < 0.001", or nothing where none was computed."""
    if value is None:
        return ""
    return f"p{_SPACE}<{_SPACE}0.001" if value < 0.001 else f"p{_SPACE}={_SPACE}{value:.3f}"


def duration(seconds: float) -> str:
    """Return a span of time: 0.4 s, 12 s, 4 min 12 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f}{_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{_SPACE}min{_SPACE}{whole % 60}{_SPACE}s"
    return f"{whole // 3600}{_SPACE}h{_SPACE}{whole % 3600 // 60:02d}{_SPACE}min"


def moment(text: str) -> str:
    """Return an ISO time as "21 November 2026, 11:54 UTC"; other text as it is."""
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when.day} {when:%B %Y, %H:%M} {when:%Z}".strip()


def judge(given: Judge) -> str:
    """Return who called an answer a refusal, and how well that agrees with people."""
    if given.refusal_judge:
        return f"Judge: {given.name}, not validated on human labels; {second_judge(given)}"
    if given.precision is None or given.recall is None:
        return f"Judge: {given.name}, not validated on human labels"
    return (
        f"Judge: {given.name}, refusals with precision {rate(given.precision)} and "
        f"recall {rate(given.recall)} on {given.validated_on}"
    )


def second_judge(given: Judge) -> str:
    """Return who tells refusals beside a judge that does not."""
    return (
        f"it tells harm, not refusal, so {given.refusal_judge} judges the answers to harmless and "
        "borderline prompts and which answers are scored on"
    )


def plain(text: str) -> str:
    """Return the text with ASCII spaces and signs, for terminals of any encoding."""
    table = {_SPACE: " ", _MINUS: "-", "\u2013": "-", "\u221e": "inf", "\u00d7": "x"}
    return "".join(table.get(char, char if char.isprintable() else "") for char in text)
