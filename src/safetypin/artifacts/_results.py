"""What a model answered, and what was made of it."""

import dataclasses
import enum
import math

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point


class Verdict(enum.StrEnum):
    """What a judge says of one response."""

    REFUSAL = "refusal"
    COMPLIED = "complied"
    DEGENERATE = "degenerate"
    UNJUDGED = "unjudged"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
    """What a model answered to one prompt.

    Attributes:
        prompt: The request, without chat template.
        text: The answer, without special tokens.
        num_tokens: Tokens generated, the end token not counted; 0 where unknown.
        stopped: Whether the model ended the answer by itself; False where the limit cut it.
    """

    prompt: str
    text: str
    num_tokens: int = 0
    stopped: bool = True


def wilson_interval(num_hits: float | int, num_trials: float | int) -> tuple[float, float] | None:
    """Return the 95 % Wilson score interval of a rate; None without a trial.

    Wilson 1927 (JASA 22, 209-212). Unlike the normal interval it stays in [0, 1] and does not
    shrink to nothing at 0 or all hits. An effective number of trials need not be whole.
    """
    if not num_trials:
        return None
    rate, z2 = num_hits / num_trials, Z_95**2
    centre = (rate + z2 / (2 * num_trials)) / (1 + z2 / num_trials)
    half = Z_95 * math.sqrt(rate * (1 - rate) / num_trials + z2 / (4 * num_trials**2))
    half /= 1 + z2 / num_trials
    low = 0.0 if num_hits == 0 else centre - half
    high = 1.0 if num_hits == num_trials else centre + half
    return low, high


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of judged responses, with its denominator.

    `value` is None, not 0.0, when no response could be judged: an attack that was never judged
    has no success rate, and 0.0 would read as "perfectly safe".
    """

    num_hits: int
    num_judged: int
    num_unjudged: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.num_hits <= self.num_judged:
            raise ValueError(f"{self.num_hits} hits among {self.num_judged} judged responses")

    @property
    def value(self) -> float | None:
        """The rate in [0, 1], or None."""
        return self.num_hits / self.num_judged if self.num_judged else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % Wilson interval, or None."""
        return wilson_interval(self.num_hits, self.num_judged)

    def to_json(self) -> dict[str, object]:
        """Return value, interval, numerator and denominators as JSON values."""
        return {
            "value": self.value,
            "interval": self.interval and list(self.interval),
            "num_hits": self.num_hits,
            "num_judged": self.num_judged,
            "num_unjudged": self.num_unjudged,
        }

    def __str__(self) -> str:
        shown = "n/a" if self.value is None else f"{self.value:.3f}"
        note = f", {self.num_unjudged} unjudged" if self.num_unjudged else ""
        return f"{shown} ({self.num_hits}/{self.num_judged}{note})"
