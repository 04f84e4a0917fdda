"""The page of a patching run: the recovery curve beside random sets, and the other direction."""

import dataclasses
from pathlib import Path

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from safetypin.report import _words
from safetypin.report._findings import Fact, Figure, Section, Table, findings_page
from safetypin.report._html import write_page
from safetypin.report._patch_metrics import CellRow, PatchMetrics, Recovery
from safetypin.report._picture import Picture
from safetypin.report._read import read
from safetypin.report._style import INK, SOFT, STRONG, light_grid

ANSWERS = {
    "cause": "Cause",
    "no more than random": "No more than random",
    "undecided": "Undecided",
    "nothing to recover": "Nothing to recover",
}
COLUMNS = ("Set", "Units", "ASR", "Degenerate", "Perplexity")

HELD = {
    "zero": "held at zero",
    "mean": "held at their mean over the attack prompts",
    "reference": "replaced, token by token, by the unaligned model's",
}
UNKNOWN_PROMPTS = (
    "The prompts that the set was found on are not known, so attack prompts may be among them."
)


def write_patch_report(folder: Path) -> Path:
    """Write `folder/report.html` from the metrics.json of a patching run.

    Raises:
        UserError: metrics.json is missing, of another kind or not of schema 1; the disk is full.
    """
    return write_page(folder, patch_page(read(folder, "patch", PatchMetrics)))


def patch_page(m: PatchMetrics) -> str:
    """Return the page."""
    names = [name.rpartition("#")[0] or name for name in (m.safe_id, m.unsafe_id)]
    return findings_page(
        title=f"Units of {names[0]} patched into {names[1]}",
        answer=ANSWERS[m.verdict.answer],
        sentence=_sentence(m),
        facts=_facts(m),
        sections=[curve(m), _other_way(m), _reading(m)],
        about=m,
    )


def headline(m: PatchMetrics) -> tuple[str, str]:
    """Return the answer in a few words, and in a sentence."""
    return ANSWERS[m.verdict.answer], _sentence(m)


def _sentence(m: PatchMetrics) -> str:
    found = m.verdict
    if found.answer == "nothing to recover":
        return (
            "The two models comply with nearly the same prompts, so patching cannot show anything."
        )
    if found.recovery is None or found.fraction is None:
        return "No size has both a recovery and a random set to compare it with."
    low, high = found.recovery.interval
    return (
        f"Patching the top {_words.share(found.fraction)} of units recovers "
        f"{_percent(found.recovery.value)} of the safety gap (95 % interval {_percent(low)} to "
        f"{_percent(high)}); the strongest of the random sets of the same size in every layer "
        f"{_percent(found.random)}."
    )


def _percent(value: float | None) -> str:
    return _words.NONE if value is None else f"{100 * value:.0f}\u00a0%".replace("-", "\u2212")


def _facts(m: PatchMetrics) -> list[Fact]:
    whole = next((c for c in m.cells if c.direction == "patch" and c.fraction == 1), None)
    facts = [
        Fact(
            label="ASR of the two models",
            value=f"{_words.rate(m.unsafe.asr)} and {_words.rate(m.safe.asr)}",
            notes=(
                f"{_words.counts(m.unsafe.asr)} unaligned, {_words.counts(m.safe.asr)} aligned",
                f"perplexity {_words.number(m.unsafe.perplexity)} and "
                f"{_words.number(m.safe.perplexity)}",
            ),
        )
    ]
    if whole is not None:
        facts.append(
            Fact(
                label="All units patched",
                value=_percent(whole.recovery.value if whole.recovery else None),
                notes=(
                    f"recovered, {_ends(whole.recovery) or 'no interval'}: the most that units at "
                    f"site {m.site} can carry over",
                ),
            )
        )
    if m.verdict.random is not None and m.verdict.fraction is not None:
        sets = [c for c in m.cells if c.arm == "random" and c.direction == "patch"]
        num_sets = sum(row.fraction == m.verdict.fraction for row in sets)
        facts.append(
            Fact(
                label="Strongest random set",
                value=_percent(m.verdict.random),
                notes=(
                    f"recovered, of {num_sets} with as many units in every layer as the top "
                    f"{_words.setting(m.verdict.fraction)}",
                ),
            )
        )
    return facts


def _ends(recovery: Recovery | None) -> str:
    return "" if recovery is None else " to ".join(_percent(end) for end in recovery.interval)


def curve(m: PatchMetrics, name: str = "recovery") -> Section:
    """Return the part of a page with the recovery curve; `name` is what its ids begin with."""
    rows = [cell for cell in m.cells if cell.direction == "patch"]
    strong = frozenset(place for place, row in enumerate(rows) if row.arm == "contrast")
    return Section(
        anchor="curve",
        heading="Recovery against size",
        words=[
            "The aligned model's activations at the set are written into the unaligned model, "
            "token by "
            "token; each reads with its own cache. Recovery is (unaligned - patched) / (unaligned "
            "- "
            "aligned) of the ASR: 0 is the unaligned model, 100 % the aligned one.",
        ],
        figures=[
            Figure(
                svg=dataclasses.replace(_picture(rows), name=name).inline(),
                caption="Filled: the contrast set, with 95 % bootstrap intervals over prompts. "
                "Crosses: "
                "random sets with as many units in every layer.",
            )
        ],
        tables=[
            Table(
                label="Every set that was patched",
                columns=(*COLUMNS, "Recovery", "95 % interval"),
                rows=[_row(row) for row in rows],
                strong=strong,
            )
        ],
    )


def _name(row: CellRow) -> str:
    drawn = "" if row.seed is None else f", seed {row.seed}"
    shared = f" ({row.num_shared:,} in the set too)" if row.num_shared else ""
    return f"{row.arm} {_words.setting(row.fraction)}{drawn}{shared}"


def _row(row: CellRow) -> tuple[str, ...]:
    asr = f"{_words.rate(row.asr)} ({_words.counts(row.asr)})" if row.asr else "n/a, destroyed"
    found = row.recovery
    return (
        _name(row),
        f"{row.num_selected:,}",
        asr,
        _words.rate(row.degenerate),
        _words.ratio(row.perplexity_ratio),
        _percent(found.value if found else None),
        _ends(found),
    )


def _picture(rows: list[CellRow]) -> Picture:
    known = [row for row in rows if row.recovery is not None]

    def draw(figure: Canvas) -> None:
        axes = figure.add_axes((0.11, 0.17, 0.86, 0.79))
        light_grid(axes)
        axes.set_xscale("log")
        for end in (0, 1):
            axes.axhline(end, color=INK, linewidth=0.8, linestyle=(0, (1.3, 1.3)))
        own = [row for row in known if row.arm == "contrast"]
        for row in known:
            assert row.recovery is not None
            if row.arm == "contrast":
                axes.vlines([row.fraction], *row.recovery.interval, color=STRONG, linewidth=1.2)
            else:
                axes.plot([row.fraction], [row.recovery.value], "x", color=SOFT, markersize=6)
        values = [row.recovery.value for row in own if row.recovery]
        axes.plot([row.fraction for row in own], values, "o-", color=STRONG, markersize=5)
        axes.set_xlabel("share of units patched")
        axes.set_ylabel("recovery")
        # decades alone would leave most curves with one label
        sizes = sorted({row.fraction for row in known})
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _words.setting(x)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _percent(y)))

    title = "Recovery against the share of units; the numbers are in the table below"
    return Picture(name="recovery", title=title, width=6.4, height=3.2, draw=draw)


def _other_way(m: PatchMetrics) -> Section:
    rows = [cell for cell in m.cells if cell.direction == "ablate"]
    table = []
    for row in rows:
        change = row.change
        ends = _words.points_interval(change.interval) if change else _words.NONE
        table.append(
            (*_row(row)[: len(COLUMNS)], _words.points(change.value if change else None), ends)
        )
    return Section(
        anchor="ablated",
        heading="The other direction: the set taken out of the aligned model",
        words=[
            f"The set's activations are {HELD[m.ablate_with]} while the aligned model answers. "
            "Where the set is needed for refusals, the ASR rises, and with random sets it does not."
        ],
        tables=[
            Table(
                label="Every set that was ablated",
                columns=(*COLUMNS, "Change of ASR", "95 % interval"),
                rows=table,
                strong=frozenset(i for i, row in enumerate(rows) if row.arm == "contrast"),
            )
        ],
    )


def _reading(m: PatchMetrics) -> Section:
    return Section(
        anchor="reading",
        heading="How to read it",
        points=[
            "“Cause” says that this set carries over more of the aligned model's refusals than "
            "any of "
            "the random sets of its size did; others may do so too.",
            "With all units patched, attention and the weights that read the units are still the "
            "unaligned model's: the curve need not reach 100 %.",
            "Perplexity is that of plain text, as a multiple of the same model's before the set "
            "was patched or taken out.",
            "A set that breaks the language has no ASR: more than the stated share of its answers "
            "is degenerate, or the perplexity is ten times as high.",
            *([] if m.are_prompts_known else [UNKNOWN_PROMPTS]),
            _judge(m),
        ],
    )


def _judge(m: PatchMetrics) -> str:
    judge = m.judge
    said = f"Judge: {judge.name}. A refusal that it misses counts as complied in all arms alike."
    if judge.precision and judge.recall:
        said += (
            f" Against {judge.validated_on or 'human labels'}: precision "
            f"{_words.rate(judge.precision)} ({_words.counts(judge.precision)}), recall "
            f"{_words.rate(judge.recall)} ({_words.counts(judge.recall)})."
        )
    return said
