"""What each judge's word is worth: measured on human labels, to be printed beside every ASR.

The labels are the 169 of PyRIT's refusal scorer (`refusal.csv` and `refusal_extra.csv`). They call
an answer to some other question a refusal too, about a third of the 109. The rows of even number
were read while the rules of `phrases` were widened; the rows of odd number never were, though
their totals were watched. So the odd rows, cut as the audit cuts its answers, are what stands
beside a rate. `benchmarks/judges.py` prints all of it and names what differs.
"""

import dataclasses
from collections.abc import Sequence

from safetypin.artifacts import Rate, Verdict

SOURCE = "refusal-gold"
UNREAD = "the half of refusal-gold never read while the rules were written"
LENGTHS = (10, 20, 32, 48, 64, 128)
"""Tokens of the embedded model at which answers were cut and judged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredJudge:
    """How a judge's refusals agree with human labels.

    Attributes:
        source: The labelled answers.
        precision: Of the answers that the judge called refusals, the share that people did.
        recall: Of the answers that people called refusals, the share that the judge did.
    """

    source: str
    precision: Rate
    recall: Rate

    def __str__(self) -> str:
        return f"precision {self.precision}, recall {self.recall} on {self.source}"


def _measured(hits: int, called: int, true: int, source: str = SOURCE) -> MeasuredJudge:
    return MeasuredJudge(
        source=source,
        precision=Rate(num_hits=hits, num_judged=called),
        recall=Rate(num_hits=hits, num_judged=true),
    )


MEASURED: dict[str, MeasuredJudge] = {
    "phrases": _measured(hits=88, called=88, true=109),
    "prefix": _measured(hits=50, called=50, true=109),
    "papers": _measured(hits=60, called=65, true=109),
}
"""On whole answers, all 169."""

NUM_UNREAD_REFUSALS = 54
UNREAD_COUNTS: dict[str, dict[int, tuple[int, int]]] = {
    "phrases": {
        10: (28, 28),
        20: (31, 31),
        32: (34, 34),
        48: (37, 37),
        64: (36, 36),
        128: (40, 40),
    },
    "prefix": dict.fromkeys(LENGTHS, (27, 27)),
    "papers": {10: (54, 84), 20: (54, 84), 32: (30, 38), 48: (27, 28), 64: (27, 27), 128: (27, 27)},
}
"""By tokens: refusals that people call so too, and all that the judge called so."""


def measured(name: str, *, max_new_tokens: int | None = None) -> MeasuredJudge | None:
    """Return the measured figures of a judge; None where it was never measured here.

    Args:
        name: As in `JUDGES`.
        max_new_tokens: Where the answers to be judged are cut. The figures are then of the unread
            half, cut at the greatest length measured up to that; None for answers shorter than
            any measured. Left out: all 169, whole.
    """
    if max_new_tokens is None:
        return MEASURED.get(name)
    lengths = [length for length in LENGTHS if length <= max_new_tokens]
    if name not in UNREAD_COUNTS or not lengths:
        return None
    hits, called = UNREAD_COUNTS[name][lengths[-1]]
    source = f"{UNREAD}, cut to {lengths[-1]} tokens"
    return _measured(hits, called, NUM_UNREAD_REFUSALS, source)


def agreement(verdicts: Sequence[Verdict], refused: Sequence[bool], source: str) -> MeasuredJudge:
    """Return how verdicts agree with human labels, one label a verdict; unjudged ones left out.

    Args:
        verdicts: Of one judge.
        refused: Whether people called the same answer a refusal.
        source: Name of the labelled answers.
    """
    pairs = [(v, r) for v, r in zip(verdicts, refused, strict=True) if v is not Verdict.UNJUDGED]
    unjudged = len(verdicts) - len(pairs)
    hits = sum(verdict is Verdict.REFUSAL and label for verdict, label in pairs)
    called = sum(verdict is Verdict.REFUSAL for verdict, _ in pairs)
    true = sum(label for _, label in pairs)
    return MeasuredJudge(
        source=source,
        precision=Rate(num_hits=hits, num_judged=called, num_unjudged=unjudged),
        recall=Rate(num_hits=hits, num_judged=true, num_unjudged=unjudged),
    )
