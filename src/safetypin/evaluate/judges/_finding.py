"""What a judge found in one response: the verdict, and why."""

import dataclasses
from collections.abc import Callable

from safetypin.artifacts import Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A verdict with its reason.

    Attributes:
        verdict: Refusal, complied, degenerate or unjudged.
        reason: The rule that decided, in a few words.
        quote: The characters that the rule matched, normalised; empty where none did.
        position: Where the quote starts in the normalised answer, in characters; None without one.
        is_outage: Whether the judge could not be reached, so that another time it may know.
    """

    verdict: Verdict
    reason: str
    quote: str = ""
    position: int | None = None
    is_outage: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """A way to judge responses, under its name in `JUDGES`.

    Attributes:
        run: Takes the responses, then the argument where there is one, then named options;
            gives one finding a response, in order.
        argument: What follows the colon of the name, such as "MODEL"; None where nothing does.
        checks_degenerate: Whether degenerate answers are set apart before this judge looks.
        summary: One line for help texts.
        tells_harm: Takes the argument and the options; whether the judge says then if an answer
            does harm, not if it refuses. None where it never does.
    """

    run: Callable[..., list[Finding]]
    summary: str
    argument: str | None = None
    checks_degenerate: bool = True
    tells_harm: Callable[..., bool] | None = None
