"""What a chain of contrast, patch and guard says in words, of all its steps together."""

import dataclasses
from collections.abc import Sequence

from safetypin.report import _contrast, _guard, _patch, _words
from safetypin.report._contrast import ContrastMetrics
from safetypin.report._findings import Fact
from safetypin.report._guard_metrics import GuardMetrics
from safetypin.report._patch_metrics import PatchMetrics

PARTS = {"test": "held-out prompts", "other": "another source"}
VERDICTS = {"beaten": "yes", "better": "no, it is worse", "not shown": "not shown"}
CAUSES = {
    "cause": "The units are a cause",
    "no more than random": "The units do no more than random ones",
    "undecided": "Whether the units are a cause is undecided",
    "nothing to recover": "There was nothing to recover",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """One step with its numbers."""

    name: str
    metrics: ContrastMetrics | PatchMetrics | GuardMetrics


def answer(found: Sequence[Found]) -> str:
    """Return whether the units are the cause, and whether a guard of them beats its baselines."""
    parts = [CAUSES[m.verdict.answer] for m in _patches(found)]
    guards = judged_guards(found)
    if guards:
        said = _guards_said([_guard.against(m) for m in guards])
        parts.append(said if parts else said[0].upper() + said[1:])
    if not parts and (contrasts := _contrasts(found)):
        parts = [_contrast.headline(contrasts[0])[0]]
    return "; ".join(dict.fromkeys(parts))


def _guards_said(verdicts: Sequence[dict[str, str]]) -> str:
    """Return what holds of every guard that counts."""
    names = [name for name in _guard.BASELINES if all(name in found for found in verdicts)]
    answers = {name: {found[name] for found in verdicts} for name in names}
    beaten = [name for name in names if answers[name] == {"beaten"}]
    better = [name for name in names if "better" in answers[name]]
    others = [name for name in names if name not in (*beaten, *better)]
    said = []
    if beaten:
        said.append(f"beats {' and '.join(beaten)}")
    if better:
        said.append(f"is worse than {' and '.join(better)}")
    if others:
        said.append(f"is not shown to beat {' or '.join(others)}")
    joined = (" but " if beaten else " and ").join(said)
    return f"the guard {joined or 'was compared with nothing'}"


def sentence(found: Sequence[Found]) -> str:
    """Return which units, how much they carry over, and how good the guard is."""
    said = []
    for contrast in _contrasts(found)[:1]:
        whole = f"{_words.share(contrast.set_.fraction)} of {contrast.set_.num_units:,}"
        said.append(f"{_contrast.headline(contrast)[0]} differ most, {whole}.")
    said += [_patch.headline(m)[1] for m in _patches(found)]
    for m in judged_guards(found):
        right = _guard.own_row(m).test.accuracy
        said.append(
            f"On {_guard.kind_of_set(m)[0]} prompts the guard is right on {_words.counts(right)} "
            f"held-out ones (95\u00a0% interval {_words.bounds(right)})."
        )
        beaten = [name for name, how in _guard.against(m, "other").items() if how == "beaten"]
        if beaten:
            said.append(f"On another source it beats {' and '.join(beaten)}.")
    return " ".join(said)


def facts(found: Sequence[Found]) -> list[Fact]:
    """Return the numbers under the answer: the set, its recovery, every guard."""
    return [_fact(step) for step in found]


def _fact(step: Found) -> Fact:
    m, label = step.metrics, step.name
    if isinstance(m, ContrastMetrics):
        note = f"of {m.set_.num_units:,}; they hold {_words.share(m.top_energy)} of squared scores"
        return Fact(label=label, value=_contrast.headline(m)[0], notes=(note,))
    if isinstance(m, PatchMetrics):
        return Fact(label=label, value=_patch.headline(m)[0], notes=_recovered(m))
    right = _guard.own_row(m).test.accuracy
    return Fact(
        label=label,
        value=_guard.headline(m)[0],
        notes=(
            f"{_words.counts(right)} held-out prompts, 95 % interval {_words.bounds(right)}",
            f"{_guard.kind_of_set(m)[0]} prompts",
        ),
    )


def _recovered(m: PatchMetrics) -> tuple[str, ...]:
    best = m.verdict
    if best.recovery is None or best.fraction is None:
        return ()
    return (
        f"top {_words.share(best.fraction)} recovers {_words.percent(best.recovery.value)}, "
        f"strongest random set {_words.percent(best.random)}",
    )


def baseline_rows(found: Sequence[Found]) -> list[tuple[str, ...]]:
    """Return for every guard and part of its prompts whether it beats each baseline."""
    rows = []
    for step in found:
        m = step.metrics
        if not isinstance(m, GuardMetrics):
            continue
        own = _guard.own_row(m)
        for part, measured in (("test", own.test), ("other", own.other)):
            if measured is None:
                continue
            right = f"{_words.rate(measured.accuracy)} ({_words.counts(measured.accuracy)})"
            cells = [_against(m, part, name) for name in _guard.BASELINES]
            rows.append((step.name, PARTS[part], _guard.kind_of_set(m)[0], right, *cells))
    return rows


def _against(m: GuardMetrics, part: str, name: str) -> str:
    verdict = _guard.against(m, part).get(name)
    if verdict is None:
        return _words.NONE
    values = [
        c.value for c in m.comparisons
        if c.part == part and c.against in _guard.BASELINES[name] and c.value is not None
    ]  # fmt: skip
    ends = dict.fromkeys(_words.points(value) for value in (min(values), max(values)))
    spread = " to ".join(end.partition("\u00a0")[0] for end in ends)
    return f"{VERDICTS[verdict]} ({spread})"


def judged_guards(found: Sequence[Found]) -> list[GuardMetrics]:
    """Return the guards that the answer goes by: on easy prompts everything is good."""
    guards = [step.metrics for step in found if isinstance(step.metrics, GuardMetrics)]
    return [m for m in guards if _guard.kind_of_set(m)[0] == _guard.MATCHED] or guards


def _contrasts(found: Sequence[Found]) -> list[ContrastMetrics]:
    return [step.metrics for step in found if isinstance(step.metrics, ContrastMetrics)]


def _patches(found: Sequence[Found]) -> list[PatchMetrics]:
    return [step.metrics for step in found if isinstance(step.metrics, PatchMetrics)]
