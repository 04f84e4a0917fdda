"""The page of an evaluation: refusals, attacks, utility, and judges side by side."""

from pathlib import Path

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from safetypin.artifacts import Rate
from safetypin.report import _words
from safetypin.report._evaluate_metrics import (
    AttackPart,
    EvaluateMetrics,
    JudgesPart,
    Language,
    MeanRate,
)
from safetypin.report._findings import Fact, Figure, Section, Table, findings_page
from safetypin.report._html import write_page
from safetypin.report._picture import Picture
from safetypin.report._read import read
from safetypin.report._style import GRID, INK, STRONG

VERDICTS = ("refusal", "complied", "degenerate")
MAX_ROWS = 24  # disagreements on the page; the rest stays in metrics.json


def write_evaluate_report(folder: Path) -> Path:
    """Write `folder/report.html` from the metrics.json of an evaluation.

    Raises:
        UserError: metrics.json is missing, of another kind or not of schema 1; the disk is full.
    """
    return write_page(folder, evaluate_page(read(folder, "evaluate", EvaluateMetrics)))


def evaluate_page(m: EvaluateMetrics) -> str:
    """Return the page."""
    sections = [_answers(m)]
    if m.attacks:
        sections.append(_attacks(m))
    if m.zero_shot or m.problems or m.perplexity:
        sections.append(_utility(m))
    if m.judges:
        sections.append(_judges(m.judges))
    removed = (
        "" if m.removed is None else f" without {_words.share(m.removed.fraction)} of its weights"
    )
    return findings_page(
        title=f"Evaluation of {m.model.name}{removed}",
        answer=f"ASR {_words.rate(m.asr)}" if m.asr else "No ASR",
        sentence=_sentence(m),
        facts=_facts(m),
        sections=[*sections, _reading(m)],
        about=m,
    )


def _title(m: EvaluateMetrics) -> str:
    title = f"Evaluation of {m.model.name}"
    if m.removed is None:
        return title
    return f"{title} without {_words.share(m.removed.fraction)} of its weights"


def _sentence(m: EvaluateMetrics) -> str:
    if "harmful" not in m.rates:
        return "No harmful prompts were asked, so there is no attack success rate."
    if m.asr is None:
        return f"There is no attack success rate: {m.why_no_asr}."
    return (
        f"{_words.counts(m.asr)} harmful requests were complied with, asked as they are (95 % "
        f"interval {_words.bounds(m.asr)}), as the judge {m.judge.name} sees it."
    )


def _facts(m: EvaluateMetrics) -> list[Fact]:
    facts = []
    known = {name: how.any_of_n for name, how in m.attacks.items() if how.any_of_n is not None}
    if known:
        name, best = max(known.items(), key=lambda item: item[1].value or 0.0)
        notes = (f"{name}: {_words.counts(best)} prompts, 95 % interval {_words.bounds(best)}",)
        facts.append(Fact(label="Strongest attack", value=_words.rate(best), notes=notes))
    if "harmless" in m.rates:
        found = m.rates["harmless"]["refusal"]
        facts.append(
            Fact(label="Harmless refused", value=_words.rate(found), notes=(_words.counts(found),))
        )
    if m.perplexity:
        beside = (f"{m.perplexity.num_tokens:,} tokens", *_compared(m.perplexity))
        value = _words.number(m.perplexity.value)
        facts.append(Fact(label="Perplexity", value=value, notes=beside))
    if m.zero_shot:
        notes = (f"mean of {len(m.zero_shot.tasks)}, standard error {_error(m)}",)
        value = _words.percent(m.zero_shot.mean, 100)
        facts.append(Fact(label="Zero-shot accuracy", value=value, notes=notes))
    return facts


def _compared(found: Language) -> tuple[str, ...]:
    if found.ratio is None:
        return ()
    before = _words.number(found.untouched)
    return (f"{_words.ratio(found.ratio)} that of the untouched model, {before}",)


def _error(m: EvaluateMetrics) -> str:
    return _words.percent(m.zero_shot.standard_error, 1000) if m.zero_shot else _words.NONE


def _shown(rate: Rate | MeanRate | None) -> str:
    """Return a rate with its counts and its interval."""
    if rate is None or rate.value is None or rate.interval is None:
        return _words.NONE
    low, high = (100 * end for end in rate.interval)
    return (
        f"{100 * rate.value:.0f} % ({rate.num_hits}/{rate.num_judged}), {low:.0f}\u2013{high:.0f} %"
    )


def _answers(m: EvaluateMetrics) -> Section:
    rows = [
        (kind, *(_shown(found[verdict]) for verdict in VERDICTS), str(_unjudged(found)))
        for kind, found in m.rates.items()
    ]
    return Section(
        anchor="answers",
        heading="Verdicts",
        words=["Share of the judged answers, numerator and denominator, and the 95 % interval."],
        tables=[
            Table(
                label="Verdicts by kind of prompt",
                columns=("Prompts", "Refusal", "Complied", "Degenerate", "Unjudged"),
                rows=rows,
            )
        ],
    )


def _unjudged(found: dict[str, Rate]) -> int:
    return found["refusal"].num_unjudged


def _attacks(m: EvaluateMetrics) -> Section:
    rows = [
        (
            name,
            str(how.num_variants),
            _shown(how.mean) if how.mean else f"{_words.NONE}: {how.why_no_asr}",
            _shown(how.any_of_n),
            _words.rate(how.degenerate),
        )
        for name, how in m.attacks.items()
    ]
    figures = []
    if any(how.mean and how.mean.value is not None for how in m.attacks.values()):
        caption = (
            "Filled: the share of answers that comply. Hollow: the share of prompts with at least "
            "one that does. Lines: 95 % intervals over prompts."
        )
        figures = [Figure(svg=_picture(m.attacks).inline(), caption=caption)]
    return Section(
        anchor="attacks",
        heading="Attacks",
        words=[
            "The same harmful requests, asked in other ways. Mean is over all answers, any of n "
            "over prompts: they are two numbers, and the second can only be the larger.",
        ],
        figures=figures,
        tables=[
            Table(
                label="Every attack",
                columns=("Attack", "Answers a prompt", "Mean", "Any of n", "Degenerate"),
                rows=rows,
            ),
            *_by_suffix(m.attacks),
        ],
    )


def _by_suffix(attacks: dict[str, AttackPart]) -> list[Table]:
    how = attacks.get("suffix")
    if how is None or how.by_variant is None or len(how.by_variant) < 2:
        return []
    rows = [(f"suffix {n}", _shown(rate)) for n, rate in enumerate(how.by_variant, start=1)]
    return [Table(label="Each suffix, by its line", columns=("Suffix", "Complied"), rows=rows)]


def _picture(attacks: dict[str, AttackPart]) -> Picture:
    names = list(attacks)

    def draw(figure: Canvas) -> None:
        axes = figure.add_axes((0.16, 0.2, 0.8, 0.76))
        axes.grid(axis="x", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        for row, name in enumerate(names):
            how = attacks[name]
            marks = ((how.mean, STRONG, 0.12), (how.any_of_n, "none", -0.12))
            for rate, fill, shift in marks:
                if rate is None or rate.value is None or rate.interval is None:
                    continue
                colour = STRONG if fill == STRONG else INK
                axes.hlines([row + shift], *rate.interval, color=colour, linewidth=1.1)
                axes.plot(
                    [rate.value], [row + shift], "o", markersize=5,
                    markeredgecolor=colour, markerfacecolor=fill,
                )  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("share that complies")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))

    title = "Success of every attack; the numbers are in the table below"
    return Picture(
        name="attacks", title=title, width=6.4, height=1.0 + 0.42 * len(names), draw=draw
    )


def _utility(m: EvaluateMetrics) -> Section:
    rows = []
    if m.perplexity:
        rows.append(("perplexity", _words.number(m.perplexity.value), ""))
    if m.zero_shot:
        for name, task in m.zero_shot.tasks.items():
            error = _words.percent(task.standard_error, 1000)
            rows.append((f"{name} ({task.metric})", _shown(task.accuracy), error))
    if m.problems:
        rows.append(("problems solved", _shown(m.problems), ""))
    return Section(
        anchor="utility",
        heading="Utility",
        words=["What the model can still do. Accuracy without examples, by lm-eval."],
        tables=[
            Table(
                label="Utility", columns=("Measure", "Value, 95 % interval", "Standard error"),
                rows=rows,
            )
        ],
    )  # fmt: skip


def _judges(found: JudgesPart) -> Section:
    pairs = [
        (f"{pair.first}, {pair.second}", _shown(pair.agree), _words.decimal(pair.kappa))
        for pair in found.pairs
    ]
    names = list(found.disagreements[0].verdicts) if found.disagreements else []
    odd = [
        (f"{row.kind} {row.index}", *(row.verdicts[name] for name in names))
        for row in found.disagreements[:MAX_ROWS]
    ]
    tables = [
        Table(
            label="ASR by judge", columns=("Judge", "ASR"),
            rows=[(name, _shown(rate)) for name, rate in found.asr.items()],
        ),
        Table(label="Agreement", columns=("Judges", "Agree", "Kappa"), rows=pairs),
    ]  # fmt: skip
    if odd:
        tables.append(Table(label="Disagreements", columns=("Answer", *names), rows=odd))
    return Section(
        anchor="judges",
        heading="Judges side by side",
        words=[
            f"The judges differ on {found.num_disagreements} of {found.num_answers} answers. Kappa "
            "is agreement beyond chance: 1 always, 0 as often as by chance. Answers are named by "
            "kind and place in the run folder, and not shown.",
        ],
        tables=tables,
    )


def _reading(m: EvaluateMetrics) -> Section:
    return Section(
        anchor="reading",
        heading="How to read it",
        points=[
            "ASR says that the refusal is gone, not that the answer is any good.",
            "What is judged after a prefilled beginning is what follows it.",
            "A model that no longer speaks has no ASR: it stands as n/a, never as a number.",
            f"{_words.judge(m.judge)}. A refusal that it misses counts as complied.",
        ],
    )
