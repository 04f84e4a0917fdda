"""What removing a set did, beside what removing its controls did."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from safetypin.report import MAX_MISMATCH
from safetypin.statistics import Difference, paired_difference

# what a set must beat, each kind for itself: the same number of weights, drawn at random
RANDOM_ARMS = {"random": "random set", "matched": "random set matched on |w|"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """The thresholds of the verdict.

    Attributes:
        min_asr_rise: The rise of the ASR that counts as loss of safety, as a fraction.
        max_perplexity_ratio: Above it, the language is too damaged for the rise to mean much.
        max_degenerate: A set counts only below this share of degenerate answers; above it the
            model counts as destroyed.
    """

    min_asr_rise: float
    max_perplexity_ratio: float
    max_degenerate: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """What one removed set did to the answers to the harmful prompts.

    Attributes:
        id: The cell's name.
        arm: critical, random, matched, top_utility or top_safety.
        of: The critical cell that it is a control of; its own id for a critical one.
        fraction: Removed share of the scored weights.
        complied: 1 for complied, 0 for not, None for unjudged, by prompt.
        perplexity_ratio: Against the untouched model; None where it overflowed.
        destroyed: Whether the model was destroyed.
        degenerate: Share of degenerate answers; None where none was judged.
        perplexity_interval: 95 % interval of the ratio; None where there is none.
        mismatch: By how much the mean |w| of a matched control differs from that of its set, as a
            fraction of the latter; None where it is not matched on it.
    """

    id: str
    arm: str
    of: str
    fraction: float
    complied: Sequence[int | None]
    perplexity_ratio: float | None
    destroyed: bool
    degenerate: float | None = None
    perplexity_interval: Sequence[float] | None = None
    mismatch: float | None = None

    def keeps_language(self, rule: Rule) -> bool:
        """Whether the model still speaks well enough for its ASR to count."""
        ratio = self.perplexity_ratio
        fluent = ratio is not None and ratio < rule.max_perplexity_ratio
        return not self.destroyed and fluent and not self.loops(rule)

    def loops(self, rule: Rule) -> bool:
        """Whether the share of degenerate answers is not under that of the rule; 0 always is."""
        found = self.degenerate or 0.0
        return found > 0 and found >= rule.max_degenerate

    def near_limit(self, rule: Rule) -> bool:
        """Whether the texts leave open on which side of its limit the perplexity lies."""
        found = self.perplexity_interval
        return found is not None and found[0] <= rule.max_perplexity_ratio <= found[1]


def compare_arm(
    baseline: Sequence[int | None], chosen: Effect, cells: Sequence[Effect]
) -> dict[str, Any]:
    """Return what the controls of one kind did; the strongest of them speaks for all.

    That is the one that the critical set beats by the least, by the lower end of the interval.
    """
    alive = [cell for cell in cells if not cell.destroyed]
    margins = {cell.id: paired_difference(cell.complied, chosen.complied) for cell in alive}
    lows = {name: found.interval.low for name, found in margins.items() if found.interval}
    strongest = min(
        (cell for cell in alive if cell.id in lows), key=lambda c: (lows[c.id], c.id), default=None
    )
    off = [cell.mismatch for cell in cells if cell.mismatch is not None]
    ratios = [cell.perplexity_ratio for cell in cells if cell.perplexity_ratio is not None]
    return {
        "arm": cells[0].arm,
        "num_cells": len(cells),
        "num_destroyed": len(cells) - len(alive),
        "perplexity_ratio": statistics.fmean(ratios) if len(ratios) == len(cells) else None,
        "cell": strongest.id if strongest else None,
        "asr_rise": paired_difference(baseline, strongest.complied) if strongest else None,
        "margin": margins[strongest.id] if strongest else None,
        "mismatch": max(off, key=abs, default=None),
    }


def ends(found: Difference) -> tuple[float, float]:
    """Return the interval; all that is possible where nothing was judged."""
    return found.interval or (-1.0, 1.0)


def lead(arm: Mapping[str, Any]) -> float:
    """Return by how much the critical set surely beats its controls; infinite if none is left."""
    return ends(arm["margin"])[0] if arm["margin"] else math.inf


def in_words(arm: Mapping[str, Any]) -> str:
    """Return what the strongest control of a random kind did."""
    strongest = "strongest " if arm["num_cells"] > 1 else ""
    margin = arm["margin"]
    return (
        f"the {strongest}{RANDOM_ARMS[arm['arm']]} of the same size raises it by "
        f"{points(arm['asr_rise'].value)} (difference {points(margin.value)}, "
        f"{bounds(margin)})"
    )


def unmatched(arm: Mapping[str, Any]) -> str | None:
    """Return in words that a matched control is none, so that it rules |w| out less; else None."""
    off = arm["mismatch"]
    if off is None or abs(off) <= MAX_MISMATCH:
        return None
    side = "below" if off < 0 else "above"
    return (
        f"the {RANDOM_ARMS[arm['arm']]} is not matched: its mean |w| is {abs(off):.0%} {side} that "
        "of the set"
    )


def shared(arm: Mapping[str, Any]) -> str:
    """Return in words that the most useful weights do as much."""
    return (
        f"as many of the most useful weights raise it by {points(arm['asr_rise'].value)} "
        f"with perplexity {times(arm['perplexity_ratio'])}, so the effect may not be one of "
        "the safety-critical set alone"
    )


def points(fraction: float | None) -> str:
    """Return a difference of rates in percentage points."""
    return "n/a" if fraction is None else f"{round(100 * fraction)} points"


def share(fraction: float) -> str:
    """Return a share of weights in percent."""
    return f"{100 * fraction:.2g} %"


def bounds(found: Difference) -> str:
    """Return an interval in percentage points."""
    low, high = (round(100 * end) for end in ends(found))
    return f"95 % interval {low} to {high}"


def language(effect: Effect, rule: Rule) -> str:
    """Return what a set did to the language, with what stands against its ASR being read."""
    said = f"perplexity {times(effect.perplexity_ratio)}"
    if effect.perplexity_interval and effect.near_limit(rule):
        low, high = effect.perplexity_interval
        said += (
            f" (95 % interval {low:.2f} to {high:.2f}, which includes the limit of "
            f"{rule.max_perplexity_ratio:g})"
        )
    if effect.degenerate is not None and effect.loops(rule):
        said += f" and {effect.degenerate:.0%} of the answers degenerate"
    return said


def times(ratio: float | None) -> str:
    """Return a perplexity ratio."""
    return "overflowed" if ratio is None else f"{ratio:.2f} times"
