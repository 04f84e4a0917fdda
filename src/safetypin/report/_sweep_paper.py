"""The tables of a sweep in the form of Wei et al.'s Tables 6 and 7, with their numbers beside.

Each of their rates stands right of what is measured most like it: their vanilla ASR is of requests
with Llama's system prompt, which is the attack `system` here.
"""

from collections.abc import Mapping, Sequence

from safetypin.report import _words
from safetypin.report._findings import Table
from safetypin.report._sweep_metrics import Choices, KnownRow, SweepCell, SweepMetrics, Untouched

PUBLISHED = "papers"  # the judge by the published rule
BESIDE = {"system": "vanilla", "suffix": "suffix", "decoding": "decoding"}
Values = dict[str, str]  # a row by its columns


def paper_table(m: SweepMetrics, label: str, cells: Sequence[SweepCell]) -> Table:
    """Return one table in the paper's form, the untouched model first."""
    is_known = any(cell.known is not None for cell in cells)
    rows = [_row(m, part, is_known=is_known) for part in (None, *cells)]
    return Table(
        label=label,
        columns=(label, *list(rows[0])[1:]),
        rows=[tuple(row.values()) for row in rows],
    )


def paper_words(m: SweepMetrics) -> list[str]:
    """Return what the tables are, and what still keeps the paper's numbers from being the same."""
    first = "In the form of Wei et al.'s Tables 6 and 7; rows are named (q, p) here, p/q there."
    if not any(cell.known is not None for cell in m.cells):
        return [
            f"{first} Their numbers are of Llama-2-7B-chat and stand beside a run on that model."
        ]
    system = "" if "system" in m.baseline.attacks else " (the attack `system`, not run here)"
    judged = "" if PUBLISHED in m.baseline.also_judged else ", not asked here"
    return [
        first,
        f"What still differs: the paper's vanilla ASR is with Llama's system prompt{system}; its "
        "decoding attack uses no chat template and no system prompt, while every attack here uses "
        f"the template; it judges by the published rule (`{PUBLISHED}`{judged}), here the judge "
        f"is {m.judge.name}; and the prompts that are scored and attacked are other draws.",
        *_of_suffixes(m),
        *without_suffixes(m),
    ]


def _of_suffixes(m: SweepMetrics) -> list[str]:
    """Return which of the suffix attack's rates is the paper's, where it was run."""
    if "suffix" not in m.baseline.attacks:
        return []
    return [
        "The paper's suffix ASR is the highest of three suffixes, so `suffix, best one` is the one "
        "to compare with it. `ASR suffix` is the mean over all suffixes, and `suffix, any` the "
        "share of prompts with at least one answer that complied."
    ]


def without_suffixes(m: SweepMetrics) -> list[str]:
    """Return that no suffix attack was run, where that is so."""
    if "suffix" in m.baseline.attacks:
        return []
    return ["No suffix attack was run: the file names no suffixes."]


def _row(m: SweepMetrics, cell: SweepCell | None, *, is_known: bool) -> Values:
    part: SweepCell | Untouched = m.baseline if cell is None else cell
    row = {"": "untouched" if cell is None else cell.size}
    if is_known:
        row["paper: row"] = part.known.row if part.known else ""
    row["Share removed"] = "" if cell is None else _words.share(cell.removed.share)
    bounds = f" ({_words.bounds(part.asr)})" if part.asr else ""
    row["ASR bare request"] = f"{_words.rate(part.asr)}{bounds}" if part.asr else _words.NONE
    if PUBLISHED in m.baseline.also_judged:
        row[f"by `{PUBLISHED}`"] = _words.rate(part.also_judged[PUBLISHED])
    row |= _attacks(m, part, is_known=is_known)
    row |= {f"accuracy, {task}": _words.rate(part.zero_shot[task].accuracy)
            for task in m.baseline.zero_shot}  # fmt: skip
    if len(m.baseline.zero_shot) > 1:
        row["mean accuracy"] = _mean_accuracy(part)
    if is_known:
        row["paper: mean accuracy"] = f"{part.known.accuracy:.2f}" if part.known else ""
    row["Perplexity"] = _words.ratio(1.0 if cell is None else cell.perplexity_ratio)
    return row


def _attacks(m: SweepMetrics, part: SweepCell | Untouched, *, is_known: bool) -> Values:
    """Return the ASR of every attack, what `papers` makes of it, and the paper's beside it."""
    row: Values = {}
    left = dict.fromkeys(BESIDE.values())
    for name, base in m.baseline.attacks.items():
        found = part.attacks[name]
        row[f"ASR {name}"] = _words.percent(found.value)
        if name == "suffix":
            row["suffix, best one"] = _words.percent(found.best)
            row["suffix, any"] = _words.NONE if not found.any_of_n else _words.rate(found.any_of_n)
        if PUBLISHED in base.also_judged:
            again = found.also_judged.get(PUBLISHED)
            row[f"{name} by `{PUBLISHED}`"] = _words.NONE if again is None else _words.rate(again)
        if is_known and name in BESIDE:
            left.pop(BESIDE[name])
            row[f"paper: {BESIDE[name]}"] = _of_the_paper(part.known, BESIDE[name])
    if is_known:
        row |= {f"paper: {name}": _of_the_paper(part.known, name) for name in left}
    return row


def _of_the_paper(known: KnownRow | None, name: str) -> str:
    if known is None:
        return ""
    rate: float | None = getattr(known, name)
    return _words.NONE if rate is None else f"{rate:.2f}"


def _mean_accuracy(part: SweepCell | Untouched) -> str:
    """Return the mean over tasks and its standard error, which an earlier run did not keep."""
    found = part.zero_shot_mean
    if found is None:
        return _words.percent(mean_accuracy(part.zero_shot))
    error = found.standard_error
    shown = "" if error is None else f" (standard error {_words.percent(error, 1000)})"
    return f"{_words.percent(found.value)}{shown}"


def mean_accuracy(zero_shot: Mapping[str, Choices]) -> float | None:
    """Return the mean over tasks, each with the same weight, as the paper has it."""
    values = [found.accuracy.value for found in zero_shot.values()]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
