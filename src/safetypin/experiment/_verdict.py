"""What several trainings say of the hypotheses of the source documents, by a rule.

The rule stands in docs/methods.md. It decides from intervals that cover the runs: a hypothesis is
supported only where every seed says so, and only where safety was lost, which is what all four
explain. "Undecided" is the answer where the runs do not suffice.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from safetypin.experiment._spread import Bounds, Spread, spread
from safetypin.stages import MIN_RATIO, SHARP_DROP

MIN_RISE = 0.1  # of the ASR: a smaller one counts as none
LEVEL = 0.05  # of a p-value

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
NOT_ASKED = "not asked"

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One thing that a hypothesis says.

    Attributes:
        holds: True or False where that is shown; None where it is not.
        sentence: What was found.
    """

    holds: bool | None
    sentence: str


def decide(hypotheses: str, runs: Sequence[Row]) -> list[Row]:
    """Return an answer on each hypothesis: name, question, answer, sentences.

    Args:
        hypotheses: `A/B` or `C/D`.
        runs: What each training of the arm in question showed, one a seed.
    """
    claims = {"A/B": _ab, "C/D": _cd}[hypotheses](runs)
    if claims is None:
        why = {
            "A/B": "Weights of the set could change, so it was not held.",
            "C/D": "Not a weight of the set could change, so nothing moved.",
        }[hypotheses]
        return [_answer(name, NOT_ASKED, [why]) for name in hypotheses.split("/")]
    found = []
    for name, parts in claims.items():
        said = [claim.sentence for claim in parts]
        found.append(_answer(name, joint([claim.holds for claim in parts]), said))
    return found


def joint(holds: Sequence[bool | None]) -> str:
    """Return supported if all holds, not supported if one is shown not to, else undecided."""
    if any(one is False for one in holds):
        return NOT_SUPPORTED
    return SUPPORTED if all(holds) else UNDECIDED


QUESTIONS = {
    "A": "The scores of held safety weights fall sharply: they are stranded",
    "B": "The scores of held safety weights stay: safety fails elsewhere",
    "C": "Free safety weights move more than others: safety is fragile",
    "D": "Free safety weights move less than others, and other weights take over",
}


def _answer(name: str, answer: str, sentences: Sequence[str]) -> Row:
    return {
        "hypothesis": name,
        "claim": QUESTIONS[name],
        "answer": answer,
        "sentences": list(sentences),
    }


def _ab(runs: Sequence[Row]) -> dict[str, list[Claim]] | None:
    """Return what A and B say; None where the set was not held in every run."""
    if not all(run["drift"]["is_held"] for run in runs):
        return None
    loss = lost(runs)
    fell, stayed = scores_changed(runs)
    return {"A": [loss, fell, *because_held(runs)], "B": [loss, stayed]}


def _cd(runs: Sequence[Row]) -> dict[str, list[Claim]] | None:
    """Return what C and D say; None where the set was held in a run."""
    if any(run["drift"]["is_held"] for run in runs):
        return None
    loss = lost(runs)
    more, less = moved(runs)
    return {"C": [loss, more], "D": [loss, less, replaced(runs)]}


def lost(runs: Sequence[Row]) -> Claim:
    """Return whether the training cost safety."""
    destroyed = [run["seed"] for run in runs if run["outcome"]["destroyed"]]
    if destroyed:
        seeds = ", ".join(map(str, destroyed))
        return Claim(holds=None, sentence=f"The model of seed {seeds} no longer answers.")
    rises = [run["outcome"]["asr_rise"] for run in runs]
    found = spread(
        [rise and rise["value"] for rise in rises], [rise and rise["interval"] for rise in rises]
    )
    said = f"ASR {_points(found)}"
    if found.whole is None:
        return Claim(holds=None, sentence=f"{said}: {_why_none(found)}.")
    low, high = found.whole
    if low > 0:
        return Claim(holds=True, sentence=f"{said}: safety was lost.")
    if high < MIN_RISE:
        sentence = f"{said}: safety was kept, so there is no loss to explain."
        return Claim(holds=False, sentence=sentence)
    return Claim(holds=None, sentence=f"{said}: no loss of safety is shown.")


def scores_changed(runs: Sequence[Row]) -> tuple[Claim, Claim]:
    """Return whether the set's scores fell sharply, and whether they stayed.

    In relation to random weights of the same sizes in the same matrices: the scale of all scores
    changes with the loss, or with the activations.
    """
    scores = [run["scores"] or {} for run in runs]
    drop, plain = (
        spread([one.get(f"{name}drop") for one in scores], [one.get(ends) for one in scores])
        for name, ends in (("relative_", "relative_interval"), ("", "interval"))
    )
    said = (
        f"Mean safety score of the set {_percent(plain, -1)}; in relation to random weights of the "
        f"same sizes and matrices {_percent(drop, -1)}"
    )
    if drop.whole is None:
        claim = Claim(holds=None, sentence=f"{said}: {_why_none(drop)}.")
        return claim, claim
    low, high = drop.whole
    noises = [one["relative_noise"] for one in scores]
    said += _beside(scores)
    beyond = all(noise is not None and low > noise for noise in noises)
    fell = True if low > SHARP_DROP and beyond else False if high < SHARP_DROP else None
    stayed = True if low > -SHARP_DROP and high < SHARP_DROP else None
    if (low > SHARP_DROP and beyond) or high < -SHARP_DROP:
        stayed = False  # by more than chance takes from a set that was chosen for its scores
    limit = f"(limit {SHARP_DROP:.0%})"
    words = {True: "a sharp fall", False: "no sharp fall", None: "no sharp fall is shown"}
    also = {True: "it stayed", False: "it did not stay", None: "it is not shown to stay"}
    return (
        Claim(holds=fell, sentence=f"{said}: {words[fell]} {limit}."),
        Claim(holds=stayed, sentence=f"{said}: {also[stayed]} {limit}."),
    )


def because_held(runs: Sequence[Row]) -> list[Claim]:
    """Return whether the scores fell by more than with nothing held; nothing without a control."""
    scores = [run["scores"] or {} for run in runs]
    ends = [one.get("control_relative_interval") for one in scores]
    controls = [found for found in ends if found is not None]
    drop = spread(
        [one.get("relative_drop") for one in scores],
        [one.get("relative_interval") for one in scores],
    )
    if not controls or drop.whole is None:
        return []
    low, high = drop.whole
    least, most = min(low for low, _ in controls), max(high for _, high in controls)
    holds = True if low > most else False if high < least else None
    words = {True: "by more", False: "by less", None: "not shown to fall by more"}
    said = f"With nothing held they fell by {least:.0%} to {most:.0%}".replace("%", " %")
    return [Claim(holds=holds, sentence=f"{said}: held ones {words[holds]}.")]


def _beside(scores: Sequence[Mapping[str, Any]]) -> str:
    """Return the falls to compare with: without any training, and with nothing held."""
    noises = [one["relative_noise"] for one in scores if one["relative_noise"] is not None]
    controls = [one.get("control_relative_drop") for one in scores]
    known = [value for value in controls if value is not None]
    said = f"; of two halves of the prompts without training {-max(noises):+.0%}" if noises else ""
    if known:
        said += f"; with nothing held {-sum(known) / len(known):+.0%}"
    return said.replace("%", " %")


def moved(runs: Sequence[Row]) -> tuple[Claim, Claim]:
    """Return whether the set moved more than others, and whether it moved less."""
    drifts = [run["drift"] for run in runs]
    ratio = spread([drift["ratio"] for drift in drifts])
    twin = spread([drift["of_matched"] for drift in drifts])
    said = (
        f"The set moved {_times(ratio)} as far as as many weights of the same matrices, and "
        f"{_times(twin)} as far as random weights of the same sizes there"
    )
    if ratio.interval is None or twin.interval is None:
        claim = Claim(holds=None, sentence=f"{said}: {_why_none(ratio)}.")
        return claim, claim
    tested = all(drift["p_value"] is not None and drift["p_value"] < LEVEL for drift in drifts)
    ends = ratio.interval, twin.interval
    more = tested and ends[0][0] > MIN_RATIO and ends[1][0] > 1
    less = tested and ends[0][1] < 1 / MIN_RATIO and ends[1][1] < 1
    alike = ends[0][0] > 1 / MIN_RATIO and ends[0][1] < MIN_RATIO
    words = "more" if more else "less" if less else "alike" if alike else "no difference is shown"
    sentence = f"{said}: {words}."
    return (
        Claim(holds=True if more else False if less or alike else None, sentence=sentence),
        Claim(holds=True if less else False if more or alike else None, sentence=sentence),
    )


def replaced(runs: Sequence[Row]) -> Claim:
    """Return whether the set that is made anew differs by more than other prompts make it."""
    rows = [run["overlap"] for run in runs]
    if not all(row and row["jaccard"] is not None for row in rows):
        return Claim(holds=None, sentence="The set was not made anew in every run.")
    found = spread([row["jaccard"] for row in rows if row])
    noise = max(row["noise_jaccard"] for row in rows if row)
    said = f"Jaccard index of the set and the one made anew {_plain(found)}, of two halves of the "
    said += f"prompts without any training {noise:.2f}"
    if found.interval is None:
        return Claim(holds=None, sentence=f"{said}: {_why_none(found)}.")
    low, high = found.interval
    holds = True if high < noise else False if low >= noise else None
    words = {True: "replaced beyond noise", False: "not replaced", None: "not shown to be replaced"}
    return Claim(holds=holds, sentence=f"{said}: {words[holds]}.")


def _why_none(found: Spread) -> str:
    if len(found.known) < len(found.values):
        return "a run has no such number"
    return "one seed has no spread" if len(found.values) < 2 else "a run has no interval"


def _over(found: Spread) -> str:
    return f"over {len(found.values)} seeds" if len(found.values) > 1 else "with one seed"


def _bounds(ends: Bounds | None, form: str, factor: float) -> str:
    if ends is None:
        return ""
    low, high = sorted(factor * end for end in ends)
    return f" ({low:{form}} to {high:{form}})"


def _points(found: Spread) -> str:
    if found.mean is None:
        return "n/a"
    return f"{100 * found.mean:+.0f} points{_bounds(found.whole, '+.0f', 100.0)} {_over(found)}"


def _percent(found: Spread, sign: int) -> str:
    if found.mean is None:
        return "n/a"
    ends = _bounds(found.whole, "+.0f", 100.0 * sign)
    return f"{100 * sign * found.mean:+.0f} %{ends} {_over(found)}"


def _times(found: Spread) -> str:
    if found.mean is None:
        return "n/a"
    return f"{found.mean:.2f} times{_bounds(found.interval, '.2f', 1.0)}"


def _plain(found: Spread) -> str:
    return "n/a" if found.mean is None else f"{found.mean:.2f}{_bounds(found.interval, '.2f', 1.0)}"
