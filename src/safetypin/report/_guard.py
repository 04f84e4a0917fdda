"""The page of a guard: its table beside every control, and what kind of data it was."""

from pathlib import Path

from safetypin.report import _words
from safetypin.report._findings import Fact, Section, Table, findings_page
from safetypin.report._guard_figures import curves
from safetypin.report._guard_metrics import Area, GuardMetrics, Measured, RowOf
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


def write_guard_report(folder: Path) -> Path:
    """Write `folder/report.html` from the metrics.json of a guard.

    Raises:
        UserError: metrics.json is missing, of another kind or not of schema 1; the disk is full.
    """
    return write_page(folder, guard_page(read(folder, "guard", GuardMetrics)))


def _own(m: GuardMetrics) -> RowOf:
    kinds = m.settings["features"], m.settings["classifier"]
    return next(row for row in m.rows if (row.features, row.classifier) == kinds)


def guard_page(m: GuardMetrics) -> str:
    """Return the page."""
    own = _own(m)
    sections = [_table(m, "test", "On held-out prompts"), _against(m)]
    if own.other is not None:
        sections.append(_table(m, "other", "On another source of prompts"))
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
    return f"{_words.rate(_own(m).test.accuracy)} right", _sentence(m)


def _sentence(m: GuardMetrics) -> str:
    data = m.data
    best = _words.percent(data.tfidf_accuracy, data.num_test)
    if data.easy:
        kind = f"This is an easy set: the words alone, with no model, reach {best}."
    else:
        kind = f"This is no easy set: the words alone, with no model, reach {best}."
    right = _own(m).test.accuracy
    kind = f"{_words.counts(right)} held-out prompts (95 % interval {_words.bounds(right)}). {kind}"
    matched = f" {data.num_matched_topics} of {data.num_groups} topics have prompts of both kinds."
    return f"{kind}{matched if data.num_matched_topics else ''} {_verdict(m)}"


def _verdict(m: GuardMetrics) -> str:
    """Return what the paired comparisons on the test part say."""
    said = []
    for names, words in ((("random",), "random units"), (("tfidf-char", "tfidf-word"), "TF-IDF")):
        rows = [c for c in m.comparisons if c.part == "test" and c.against in names]
        known = [row for row in rows if row.interval is not None]
        if not known:
            continue
        if all(row.interval and row.interval[0] > 0 for row in known):
            said.append(f"Contrast units beat {words}.")
        elif all(row.interval and row.interval[1] < 0 for row in known):
            said.append(f"Contrast units are worse than {words}.")
        else:
            said.append(f"That contrast units beat {words} is not shown.")
    return " ".join(said)


def _facts(m: GuardMetrics, own: RowOf) -> list[Fact]:
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


def _beside(m: GuardMetrics, own: RowOf) -> tuple[str, ...]:
    """Return the areas of the controls: random units, and the better of the two TF-IDF."""
    areas: dict[str, list[float]] = {"random units": [], "TF-IDF": []}
    for row in m.rows:
        name = "TF-IDF" if row.features.startswith("tfidf") else NAMES[row.features]
        value = row.test.roc_auc.value
        is_like = row.classifier == own.classifier or name == "TF-IDF"
        if name in areas and is_like and value is not None:
            areas[name].append(value)
    return tuple(f"{name} at most {max(found):.3f}" for name, found in areas.items() if found)


def _area(found: Area) -> str:
    if found.interval is None:
        return _words.decimal(found.value, 3)
    low, high = found.interval
    return f"{_words.decimal(found.value, 3)} ({low:.2f}\u2013{high:.2f})"


def _table(m: GuardMetrics, part: str, heading: str) -> Section:
    own, rows = _own(m), []
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
                f"{_words.rate(found.accuracy)} ({_words.bounds(found.accuracy)})",
                _words.rate(found.recall),
                _words.rate(found.precision),
                _words.decimal(found.f1, 3),
                _area(found.roc_auc),
                _area(found.average_precision),
                f"{true_safe} {false_alarm} / {missed} {caught}",
                _words.rate(found.at_limit.recall),
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
            "probability one half. In brackets: 95 % intervals."
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
