"""The page of a guard: its table beside every control, and what kind of data it was."""

from pathlib import Path

from safetypin.artifacts import Rate
from safetypin.report import _words
from safetypin.report._findings import Fact, Section, Table, findings_page
from safetypin.report._guard_figures import curves
from safetypin.report._guard_metrics import Area, GuardMetrics, Measured, Row
from safetypin.report._html import write_page
from safetypin.report._metrics import Interval
from safetypin.report._read import read

NAMES = {
    "contrast": "contrast units",
    "random": "random units",
    "pca": "PCA, 95 % of variance",
    "all": "all units",
    "tfidf-char": "characters (TF-IDF)",
    "tfidf-word": "words (TF-IDF)",
    "length": "length",
    "majority": "majority class",
}

BASELINES = {"random units": ("random",), "TF-IDF": ("tfidf-char", "tfidf-word")}
MATCHED, EASY = "topic-matched", "easy"
UNKNOWN_PROMPTS = "The prompts that the set was found on are not known: leaks could not be checked."


def write_guard_report(folder: Path) -> Path:
    """Write `folder/report.html` from the metrics.json of a guard.

    Raises:
        UserError: metrics.json is missing, of another kind or not of schema 1; the disk is full.
    """
    return write_page(folder, guard_page(read(folder, "guard", GuardMetrics)))


def own_row(m: GuardMetrics) -> Row:
    """Return the row of the guard that was asked for."""
    kinds = m.settings["features"], m.settings["classifier"]
    return next(row for row in m.rows if (row.features, row.classifier) == kinds)


def guard_page(m: GuardMetrics) -> str:
    """Return the page."""
    own = own_row(m)
    sections = [table(m, "test", "On held-out prompts"), _against(m)]
    if own.other is not None:
        sections.append(table(m, "other", "On another source of prompts"))
    return findings_page(
        title=f"Guard on {m.model_id.rpartition('#')[0]}",
        answer=f"{_words.rate(own.test.accuracy)} right",
        sentence=_sentence(m),
        facts=_facts(m, own),
        sections=[*sections, curves(m, own), _reading()],
        about=m,
    )


def headline(m: GuardMetrics) -> tuple[str, str]:
    """Return the answer in a few words, and in a sentence."""
    return f"{_words.rate(own_row(m).test.accuracy)} right", _sentence(m)


def _sentence(m: GuardMetrics) -> str:
    right, (of, why) = own_row(m).test.accuracy, kind_of_set(m)
    said = [
        f"{_words.counts(right)} held-out prompts (95 % interval {_words.bounds(right)}).",
        f"{of.capitalize()}: {why}; {_words_alone(m)}.",
        _verdict(m),
        "" if m.neurons.get("are_prompts_known", True) else UNKNOWN_PROMPTS,
    ]
    return " ".join(part for part in said if part)


def kind_of_set(m: GuardMetrics) -> tuple[str, str]:
    """Return of which kind the set of prompts is, and why."""
    num_matched, num_topics = m.data.num_matched_topics, m.data.num_groups
    if num_matched == num_topics:
        return MATCHED, "every topic has safe and unsafe prompts"
    some = f"{num_matched:,} of {num_topics:,} topics have"
    # older versions called a set easy by what TF-IDF reaches, so it does not count alone
    if num_matched and not m.data.easy:
        return MATCHED, f"{some} safe and unsafe prompts"
    few = f"only {some}" if num_matched else "topics differ between the classes: none has"
    return EASY, f"{few} both safe and unsafe prompts, so words alone can tell them apart"


def _words_alone(m: GuardMetrics) -> str:
    """Return how far the better TF-IDF gets on each part."""
    name, held_out = _best_tfidf(m, "test")
    still = " still" if kind_of_set(m)[0] == MATCHED else ""
    said = f"{name} TF-IDF{still} reaches {_words.rate(held_out)} of the held-out prompts"
    if any(row.other for row in m.rows):
        name, elsewhere = _best_tfidf(m, "other")
        said += f", {name} TF-IDF {_words.rate(elsewhere)} of another source"
    return said


def _best_tfidf(m: GuardMetrics, part: str) -> tuple[str, Rate]:
    """Return which TF-IDF is right most often on a part, and how often."""
    names = {"tfidf-char": "character", "tfidf-word": "word"}
    found = [(names[row.features], getattr(row, part)) for row in m.rows if row.features in names]
    name, best = max(found, key=lambda one: one[1].accuracy.value or 0.0)
    return name, best.accuracy


def against(m: GuardMetrics, part: str = "test") -> dict[str, str]:
    """Return of random units and of TF-IDF what the paired comparisons on a part say of them.

    The contrast units beat them all ("beaten"), all beat the contrast units ("better"), or neither
    is shown ("not shown").
    """
    found = {}
    for words, names in BASELINES.items():
        rows = [c for c in m.comparisons if c.part == part and c.against in names]
        known = [row.interval for row in rows if row.interval is not None]
        if known:
            beaten, better = (low > 0 for low, _ in known), (high < 0 for _, high in known)
            found[words] = "beaten" if all(beaten) else "better" if all(better) else "not shown"
    return found


def _verdict(m: GuardMetrics) -> str:
    """Return what the paired comparisons on the test part say."""
    said = {
        "beaten": "Contrast units beat {}.",
        "better": "Contrast units are worse than {}.",
        "not shown": "That contrast units beat {} is not shown.",
    }
    return " ".join(said[answer].format(words) for words, answer in against(m).items())


def _facts(m: GuardMetrics, own: Row) -> list[Fact]:
    limit = own.test.at_limit
    return [
        Fact(
            label="Area under the ROC curve",
            value=_words.decimal(own.test.roc_auc.value, 3),
            notes=(_ends(own.test.roc_auc.interval), *_beside(m, own)),
        ),
        Fact(
            label=f"Caught at {_words.setting(m.settings['false_positive_rate'])} false alarms",
            value=_words.rate(limit.recall),
            notes=(
                f"{_words.counts(limit.recall)} unsafe prompts; measured false alarms "
                f"{_words.rate(limit.false_positive_rate)} "
                f"({_words.counts(limit.false_positive_rate)})",
                f"threshold {_words.decimal(m.threshold, 3)}, from the training prompts alone",
            ),
        ),
        Fact(
            label="Kind of set", value=kind_of_set(m)[0], notes=(kind_of_set(m)[1], _words_alone(m))
        ),
        Fact(
            label="Prompts",
            value=f"{m.data.num_train} + {m.data.num_test}",
            notes=(
                "fitted on + tested on, no topic in both",
                f"{m.data.num_duplicates} duplicates were left out",
            ),
        ),
    ]


def _ends(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"95 % interval {interval[0]:.3f} to {interval[1]:.3f}"


def _beside(m: GuardMetrics, own: Row) -> tuple[str, ...]:
    """Return the areas of the controls: random units, and the better of the two TF-IDF."""
    areas: dict[str, list[float]] = {"random units": [], "TF-IDF": []}
    for row in m.rows:
        name = "TF-IDF" if row.features.startswith("tfidf") else NAMES[row.features]
        value = row.test.roc_auc.value
        is_like = row.classifier == own.classifier or name == "TF-IDF"
        if name in areas and is_like and value is not None:
            areas[name].append(value)
    return tuple(f"{name} at most {max(found):.3f}" for name, found in areas.items() if found)


def _with_ends(value: float | None, interval: Interval | None) -> str:
    """Return a number with its interval: 0.985 (0.94–1.00)."""
    shown = _words.decimal(value, 3)
    return shown if interval is None else f"{shown} ({interval[0]:.2f}\u2013{interval[1]:.2f})"


def _area(found: Area) -> str:
    return _with_ends(found.value, found.interval)


def _rate(given: Rate) -> str:
    """Return a rate with its interval, which has no unit of its own: 95 % (83–99)."""
    ends = _words.bounds(given).removesuffix("%").rstrip()
    return f"{_words.rate(given)} ({ends})" if ends else _words.rate(given)


def table(m: GuardMetrics, part: str, heading: str) -> Section:
    """Return the part of a page with every classifier on one part of the prompts."""
    own, rows = own_row(m), []
    strong = frozenset(place for place, row in enumerate(m.rows) if row is own)
    for row in m.rows:
        found: Measured = getattr(row, part)
        (true_safe, false_alarm), (missed, caught) = found.confusion
        drawn = "" if row.seed is None else f", seed {row.seed}"
        kind = f", {row.classifier}" if row.num_features else ""
        rows.append(
            (
                f"{NAMES[row.features]}{drawn}{kind}",
                f"{row.num_features:,}" if row.num_features else "",
                _rate(found.accuracy),
                _rate(found.recall),
                _rate(found.precision),
                _with_ends(found.f1, found.f1_interval),
                _area(found.roc_auc),
                _area(found.average_precision),
                f"{true_safe} {false_alarm} / {missed} {caught}",
                _rate(found.at_limit.recall),
            )
        )
    columns = (
        "Features", "Size", "Accuracy", "Recall", "Precision", "F1", "ROC AUC", "AP",
        "Confusion", f"Recall at {_words.setting(m.settings['false_positive_rate'])} FPR",
    )  # fmt: skip
    return Section(
        anchor=part,
        heading=heading,
        words=[
            "Every row has the same prompts, the same split and the same way to choose its "
            "penalty. "
            "Confusion: true negatives, false positives / false negatives, true positives, at "
            "probability one half. In brackets: 95 % intervals, of rates Wilson's, of F1 and of "
            "areas the bootstrap's over prompts."
        ],
        tables=[Table(label=heading, columns=columns, rows=rows, strong=strong)],
    )


def _against(m: GuardMetrics) -> Section:
    rows = []
    for row in m.comparisons:
        drawn = "" if row.seed is None else f", seed {row.seed}"
        where = "held-out prompts" if row.part == "test" else "another source"
        rows.append(
            (
                f"{NAMES[row.against]}{drawn}",
                where,
                _words.points(row.value),
                _words.points_interval(row.interval),
                _words.p_value(row.p_value),
            )
        )
    return Section(
        anchor="against",
        heading="Contrast units against the others",
        words=["Accuracy of the contrast units minus that of the other, on the same prompts."],
        tables=[
            Table(
                label="Paired comparisons",
                columns=("Against", "On", "Difference", "95 % interval", "McNemar"),
                rows=rows,
            )
        ],
    )


def _reading() -> Section:
    return Section(
        anchor="reading",
        heading="How to read it",
        points=[
            "A guard that is no better than TF-IDF reads topics and style, not what the model "
            "knows "
            "of danger. On easy sets everything is good; only topic-matched prompts tell them "
            "apart.",
            "Random units are as many in every layer as the contrast units, and none of them where "
            "the layer has enough others. If they do as well, the contrast units are nothing "
            "special "
            "for this task, whatever else they do.",
            "The threshold and the calibration come from training prompts, each judged by a "
            "classifier that did not see its topic.",
            "Intervals cover the choice of prompts, not that of model, source or seed. On another "
            "source the false alarms may be many more than stated: measure before use.",
        ],
    )
