"""Fit a guard, and measure it beside everything that it must beat."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetypin.artifacts import PromptSet, RunRecord, read_json, write_json
from safetypin.predict import (
    FEATURES_FILE,
    GUARD_FILE,
    Features,
    GuardRule,
    Labelled,
    Reading,
    check_classes,
    check_hash_leaks,
    check_leaks,
    chosen_sites,
    encode_prompts,
    labelled,
    split_groups,
    texts_hash,
    threshold_at,
    write_features,
    written_by,
)
from safetypin.prompts import load_prompts
from safetypin.report import write_report
from safetypin.stages._describe import describe_prompts
from safetypin.stages._guard_config import GuardConfig
from safetypin.stages._guard_measure import Bench, comparisons
from safetypin.stages._pair import Where, load_neurons, load_subject, neurons_folder
from safetypin.stages._progress import EVENTS_FILE, Reporter
from safetypin.stages._run import Output, held
from safetypin.stages._score_files import PROMPT_HASHES
from safetypin.stages._series import Series

SCHEMA = 1
UNITS_PER_PROMPT = 10.0  # a forward pass, against one generated token
TOPIC_MATCHED, NOT_MATCHED = "topic-matched", "not matched"
MATCHED = 0.5  # share of the prompts on topics with prompts of both labels, from which on it is so
UNKNOWN_PROMPTS = (
    "the prompts that the set was found on are not known: leaks could not be checked; "
    "`safetypin contrast` records them with the set that it finds"
)


def fit_guard(
    config: GuardConfig, out: str | Path, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Fit a guard on unsafe and safe prompts, and measure it on groups that were held out.

    Leaves `guard` (see `Guard.load`), `features`, `metrics.json` and `report.html` in `out`.

    Raises:
        UserError: Bad input, such as a class that is missing or a prompt that leaks.
    """
    out = Path(out)
    sets = {name: _read(config, name) for name in ("unsafe", "safe", "other_unsafe", "other_safe")}
    reporter = reporter or Reporter(events=out / EVENTS_FILE, quiet=True)
    with held(out), reporter.running():
        return _Fitting(config, Series(out, reporter), sets).run()


def _read(config: GuardConfig, name: str) -> PromptSet | None:
    source = getattr(config, name)
    if source is None:
        return None
    loaded = load_prompts(source, prompt_column=config.prompt_column)
    if config.num_prompts is None:
        return loaded
    return loaded.shuffled(config.seed).take(min(config.num_prompts, len(loaded)))


class _Fitting:
    """The state of one run."""

    def __init__(
        self, config: GuardConfig, series: Series, sets: dict[str, PromptSet | None]
    ) -> None:
        self.config, self.series, self.sets = config, series, sets
        self.out = series.out

    def run(self) -> dict[str, Any]:
        """Check, read features, fit and measure, save the guard."""
        self.parts = self._split()
        self.series.reporter.stage("loading the model")
        where = Where(dtype=self.config.dtype, device=self.config.device)
        self.subject = load_subject(self.config.model, where)
        self.neurons = load_neurons(
            self.config.neurons, self.subject, any_model=self.config.any_model
        )
        # said before any prompt is encoded: units that no pass can read
        chosen_sites(self.subject.model, self.neurons.site, None)
        self.contrast_hashes = self._check_contrast()
        features = self._features()
        fitted = self._fit(features)
        return self._finish(fitted)

    def _split(self) -> dict[str, Labelled]:
        config, sets = self.config, self.sets
        assert sets["unsafe"] is not None
        assert sets["safe"] is not None
        self.data = labelled(sets["unsafe"], sets["safe"])
        check_classes(self.data.labels, "the data")
        train, test = split_groups(self.data, config.test_fraction, config.seed)
        parts = {"train": train, "test": test}
        if sets["other_unsafe"] is not None and sets["other_safe"] is not None:
            parts["other"] = labelled(sets["other_unsafe"], sets["other_safe"])
            check_classes(parts["other"].labels, "the other source")
        check_leaks({name: part.texts for name, part in parts.items()})
        return parts

    def _check_contrast(self) -> list[str]:
        """Return the hashes of the prompts that the set was found on; none where not recorded."""
        record = RunRecord.read(neurons_folder(self.config.neurons))
        hashes = sorted(record.result.get(PROMPT_HASHES, []))
        if not hashes:
            self.series.reporter.note(UNKNOWN_PROMPTS)
        for name, part in self.parts.items():
            check_hash_leaks(part, hashes, name)
        return hashes

    @property
    def _reading(self) -> Reading:
        config = self.config
        return Reading(self.neurons.site, config.pooling, config.plain, config.system)

    def _features(self) -> Features:
        prompts = [prompt for part in self.parts.values() for prompt in part.prompts]
        subject, how = self.subject, self._reading
        rows = encode_prompts(subject.model, subject.tokenizer, prompts, how)
        self.series.reporter.expect(UNITS_PER_PROMPT * len(rows) * 2)
        bos = subject.tokenizer.bos_token_id
        read = {"prompts": texts_hash(rows), "reading": how._asdict(), "start": bos}
        inputs = {**subject.inputs, **read}

        def compute(folder: Path) -> Output:
            found = write_features(
                folder / FEATURES_FILE,
                subject.model,
                rows,
                how,
                model_id=subject.identity,
                bos=bos,
                progress=lambda num: self.series.reporter.advance(UNITS_PER_PROMPT * num),
            )
            return Output({"num_prompts": found.num_prompts}, [FEATURES_FILE])

        self.series.run("features", inputs, compute, units=UNITS_PER_PROMPT * len(rows))
        return Features(self.out / "features" / FEATURES_FILE)

    def _fit(self, features: Features) -> RunRecord:
        config = self.config
        names = ("features", "classifier", "false_positive_rate", "num_random", "seed")
        written = written_by(self.subject.tokenizer, self._reading)
        inputs = {
            "data": {name: part.fingerprint for name, part in self.parts.items()},
            "neurons": self.neurons.fingerprint,
            "contrast_hashes": self.contrast_hashes,
            "read": self.series.records["features"].files,
            "written": written,
            **{name: getattr(config, name) for name in names},
        }

        def compute(folder: Path) -> Output:
            bench = Bench(
                features,
                self.parts,
                self.neurons,
                false_positive_rate=config.false_positive_rate,
                seed=config.seed,
            )
            rows, kept = bench.table(config.num_random, (config.features, config.classifier))
            about = {
                "rows": rows,
                "comparisons": comparisons(rows, config.classifier),
                "curve": bench.curve(config.classifier),
            }
            fitted, train = kept.linear, self.parts["train"]
            chances = fitted.probability(fitted.held_out)
            rule = GuardRule(
                linear=fitted,
                units=kept.units,
                reading=self._reading,
                model_id=self.subject.identity,
                threshold=threshold_at(chances, train.labels, config.false_positive_rate),
                false_positive_rate=config.false_positive_rate,
                about={name: getattr(config, name) for name in ("model", "features", "classifier")},
                written=written,
            )
            result = rule.write(folder)
            result["train_hashes"] = sorted(_hashes(train))
            result["contrast_hashes"] = self.contrast_hashes
            write_json(folder / "measured.json", about)
            return Output(result, [GUARD_FILE, "measured.json"])

        return self.series.run("guard", inputs, compute, units=UNITS_PER_PROMPT * len(self.data))

    def _finish(self, fitted: RunRecord) -> dict[str, Any]:
        measured = read_json(self.out / "guard" / "measured.json")
        sources = {name: getattr(self.config, name) for name, found in self.sets.items() if found}
        found = {
            "schema": SCHEMA,
            "kind": "guard",
            "safetypin": version("safetypin"),
            "settings": self.config.model_dump(mode="json"),
            "model_id": self.subject.identity,
            "neurons": {
                "num_selected": self.neurons.num_selected,
                "num_units": self.neurons.num_units,
                "fingerprint": self.neurons.fingerprint,
                "site": self.neurons.site,
                "are_prompts_known": bool(self.contrast_hashes),
            },
            "data": self._describe_data(measured["rows"]),
            "threshold": fitted.result["threshold"],
            **measured,
            "prompts": describe_prompts(
                {name: found for name, found in self.sets.items() if found}, sources
            ),
            "run": self.series.describe(),
        }
        write_json(self.out / "metrics.json", found)
        write_report(self.out)
        self.series.reporter.finish()
        return found

    def _describe_data(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return of which kind the set is, by its topics; and how far words alone get on it."""
        data, parts = self.data, self.parts
        tfidf = {
            part: {
                row["features"]: row[part]["accuracy"]["value"]
                for row in rows
                if row["features"].startswith("tfidf")
            }
            for part in parts
            if part != "train"
        }
        kind = TOPIC_MATCHED if data.matched_share >= MATCHED else NOT_MATCHED
        return {
            "num_train": len(parts["train"]),
            "num_test": len(parts["test"]),
            "num_other": len(parts["other"]) if "other" in parts else None,
            "num_duplicates": data.num_duplicates,
            "num_groups": len(set(data.groups)),
            "num_matched_topics": data.num_topics,
            "matched_share": data.matched_share,
            "kind": kind,
            "easy": kind == NOT_MATCHED,  # of the topics, not of what TF-IDF reaches
            "tfidf_accuracy": max(tfidf["test"].values()),
            "tfidf": tfidf,
        }


def _hashes(part: Labelled) -> list[str]:
    return list(PromptSet(name="train", prompts=part.prompts).hashes)
