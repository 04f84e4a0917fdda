"""How far two judges agree on the same answers. Cohen 1960 (Educ. Psychol. Meas. 20, 37-46)."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

from safetypin.artifacts import Rate, Verdict

JUDGED = (Verdict.REFUSAL, Verdict.COMPLIED, Verdict.DEGENERATE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgePair:
    """Two judges on the same answers.

    Attributes:
        first: Name of one.
        second: Name of the other.
        agree: Answers with the same verdict, of those that both judged.
        kappa: Agreement beyond what their shares of each verdict would give by chance: 1 always,
            0 as by chance. None where chance alone gives 1, or nothing was judged by both.
        counts: Answers by the first's verdict, then the second's; unjudged ones too.
    """

    first: str
    second: str
    agree: Rate
    kappa: float | None
    counts: Mapping[str, Mapping[str, int]]

    def to_json(self) -> dict[str, object]:
        """Return all of it as JSON values."""
        counts = {name: dict(row) for name, row in self.counts.items()}
        own = {"first": self.first, "second": self.second, "kappa": self.kappa}
        return own | {"agree": self.agree.to_json(), "counts": counts}


def judge_pairs(verdicts: Mapping[str, Sequence[Verdict]]) -> list[JudgePair]:
    """Return every pair of judges, given their verdicts on the same answers in the same order.

    Raises:
        ValueError: They judged different numbers of answers.
    """
    if len({len(rows) for rows in verdicts.values()}) > 1:
        sizes = {name: len(rows) for name, rows in verdicts.items()}
        raise ValueError(f"the judges judged different numbers of answers: {sizes}")
    return [_pair(a, verdicts[a], b, verdicts[b]) for a, b in combinations(verdicts, 2)]


def disagreements(verdicts: Mapping[str, Sequence[Verdict]]) -> list[int]:
    """Return the places of the answers on which not all judges say the same.

    A judge that does not judge an answer takes no part in it.
    """
    found = []
    for place, row in enumerate(zip(*verdicts.values(), strict=True)):
        if len(set(row) - {Verdict.UNJUDGED}) > 1:
            found.append(place)
    return found


def _pair(
    name: str, one: Sequence[Verdict], other_name: str, other: Sequence[Verdict]
) -> JudgePair:
    counts = Counter(zip(one, other, strict=True))
    both = {pair: n for pair, n in counts.items() if Verdict.UNJUDGED not in pair}
    total = sum(both.values())
    same = sum(n for (a, b), n in both.items() if a is b)
    return JudgePair(
        first=name,
        second=other_name,
        agree=Rate(num_hits=same, num_judged=total, num_unjudged=len(one) - total),
        kappa=_kappa(both, same, total),
        counts={a.value: {b.value: counts[a, b] for b in Verdict} for a in Verdict},
    )


def _kappa(both: Mapping[tuple[Verdict, Verdict], int], same: int, total: int) -> float | None:
    """Return Cohen's kappa from counts: whole numbers until the last division."""
    by_chance = sum(
        sum(n for (a, _), n in both.items() if a is verdict)
        * sum(n for (_, b), n in both.items() if b is verdict)
        for verdict in JUDGED
    )
    if total**2 == by_chance:
        return None
    return (same * total - by_chance) / (total**2 - by_chance)
