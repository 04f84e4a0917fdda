"""Follow what a fine-tune moved: weights, scores and sets, beside chance and controls."""

import gc
from pathlib import Path
from typing import Any

from safetypin.artifacts import RunRecord, UserError, WeightMask, model_hash
from safetypin.models import coverage
from safetypin.stages._describe import describe_model
from safetypin.stages._evaluate import Suite, evaluate_model
from safetypin.stages._progress import EVENTS_FILE, Reporter
from safetypin.stages._run import held
from safetypin.stages._score import UNITS_PER_EXAMPLE
from safetypin.stages._series import Series
from safetypin.stages._subject import SCORED, Subject
from safetypin.stages._track_config import TrackConfig
from safetypin.stages._track_drift import UNITS_PER_WEIGHT, measure_drift
from safetypin.stages._track_groups import given_groups, make_groups, read_groups, shares_of
from safetypin.stages._track_prompts import (
    EVALUATION,
    check_prompts,
    read_sets,
    short_sets,
    suite_of,
)
from safetypin.stages._track_scores import comparing_units
from safetypin.stages._track_scoring import TrackScores, fingerprints
from safetypin.stages._track_source import (
    Source,
    load_reference,
    load_tuned,
    open_source,
    reference_name,
)
from safetypin.stages._track_write import Finished, write_all
from safetypin.track import open_reference, open_tuned


def track(
    config: TrackConfig, out: str | Path, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Follow a training: drift of groups of weights, scores and sets before and after, outcome.

    Leaves `metrics.json`, `drift.parquet`, `dynamics.parquet`, `overlap.parquet`, `figures/` and
    `report.html` in `out`. Stages that are done there with the same inputs are not run again.

    Args:
        config: The run or checkpoints, the reference, groups, scores, prompts.
        out: The run folder.
        reporter: Told how it goes on.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: Bad input; nothing half-written is left under a final name.
    """
    out = Path(out)
    source = open_source(Path(config.run))
    reference_name(config, source)  # raises before a folder is made
    reporter = reporter or Reporter(events=out / EVENTS_FILE, quiet=True)
    with held(out), reporter.running():
        return _Tracking(config, source, Series(out, reporter)).run()


class _Tracking:
    """The state of one run: the model that is loaded and the records of the stages."""

    def __init__(self, config: TrackConfig, source: Source, series: Series) -> None:
        self.config, self.source, self.series = config, source, series
        self.out, self.reporter = series.out, series.reporter
        self.sources = {"rescored": source}  # by the stage that scores what came of it
        if config.control is not None:
            self.sources["control"] = open_source(Path(config.control))
        self.name = reference_name(config, source)
        self.suite: Suite | None = None
        self.scores: TrackScores | None = None
        self.identities: dict[str, str] = {}
        self.subject: Subject
        self.groups: dict[str, WeightMask]

    def run(self) -> dict[str, Any]:
        """Run every stage, then write metrics, tables, figures and the report."""
        self.reporter.stage("loading the reference")
        self.subject = load_reference(self.name, self.config, self.source)
        self._check()
        self.about = describe_model(
            self.name, self.subject.model, self.subject.identity, self.config.targets
        )
        self.reporter.expect(self._units())
        if self.suite is not None:
            self._evaluate("before", self.suite)
        self._make_groups()
        for checkpoint in self.source.checkpoints:
            measure_drift(
                self.series, self.config, self.source, checkpoint, self.subject, self.groups
            )
        for name, followed in self.sources.items():
            self._follow(name, followed)
        return self._finish()

    def _check(self) -> None:
        """Raise, before anything is written, if the set, a prompt or the control does not fit."""
        config, source, identity = self.config, self.source, self.subject.identity
        self.given = given_groups(config, source, identity)
        if self.given is None and not config.rescore:
            raise UserError(
                "without scores there is no set to follow; name a folder with one by --groups, or "
                "leave --no-rescore out"
            )
        evaluation = () if source.is_evaluated(identity) else EVALUATION
        self.prompts = read_sets(config, (*evaluation, *(SCORED if config.rescore else ())))
        check_prompts(config, self.subject, self.prompts)
        if evaluation:
            self.suite = suite_of(config, self.prompts)
        if "control" in self.sources:
            _check_control(self.sources["control"], identity)
        reference = open_reference(self.subject.model)
        for one in (*self.source.checkpoints, *(other.final for other in self.sources.values())):
            open_tuned(one, reference)
        for note in (*source.notes, *short_sets(config, self.prompts)):
            self.reporter.note(note)

    def _units(self) -> float:
        num_weights = coverage(self.subject.model, self.config.targets).num_scored
        units = len(self.source.checkpoints) * num_weights * UNITS_PER_WEIGHT
        if self.suite is not None:
            units += 2 * self.suite.units
        if self.config.rescore:
            asked = sum(len(self.prompts[name]) for name in SCORED)
            num_models = 1 + len(self.sources)  # the reference too
            units += asked * (self.config.max_new_tokens + num_models * UNITS_PER_EXAMPLE)
            units += num_models * comparing_units(num_weights)  # of the reference the two halves
        return units

    def _evaluate(self, name: str, suite: Suite) -> RunRecord:
        subject = self.subject
        return self.series.run(
            name,
            {**subject.inputs, "suite": suite.inputs},
            lambda folder: evaluate_model(
                folder, subject.model, subject.tokenizer, suite, reporter=self.reporter
            ),
            units=suite.units,
        )

    def _make_groups(self) -> None:
        """Make the groups; where scores are wanted, score the reference and measure the noise."""
        config, given, subject = self.config, self.given, self.subject
        shares, scores = shares_of(config, given), None
        if config.rescore:
            scores = TrackScores(self.series, config, subject, self.prompts, shares)
        inputs = {
            "model_id": subject.identity,
            "given": given and fingerprints(given.masks),
            "shares": shares,
            **({} if config.top is None else {"top": config.top}),
            "group": config.group,
            "seed": config.seed,
            "scores": scores and scores.inputs,
        }
        if scores is not None and self._reads(scores, inputs):
            scores.score_reference(subject)
        self.series.run(
            "groups",
            inputs,
            lambda folder: make_groups(
                folder, subject, given, None if scores is None else scores.read(), config
            ),
        )
        self.groups, self.scores = read_groups(self.out / "groups"), scores
        if scores is not None:
            scores.measure_noise(self.groups)

    def _reads(self, scores: TrackScores, inputs: dict[str, Any]) -> bool:
        """Whether the reference's scores are to be made, or to be there again."""
        if self.config.keep_scores or not self.series.has("groups", inputs):
            return True
        return scores.are_needed(read_groups(self.out / "groups"), self.sources)

    def _follow(self, name: str, source: Source) -> None:
        """Load what a training gave, evaluate it where nobody did, and score it."""
        self.reporter.stage(f"loading {source.final.path}")
        tokenizer = self.subject.tokenizer
        del self.subject
        gc.collect()
        self.subject = load_tuned(
            source, self.name, tokenizer, dtype=self.about["dtype"], device=self.config.device
        )
        self.identities[name] = self.subject.identity
        if source is self.source:
            self._check_taken()
            if self.suite is not None:
                self._evaluate("after", self.suite)
        if self.scores is not None:
            self.scores.score_tuned(name, source, self.subject, self.groups)

    def _check_taken(self) -> None:
        """Raise if the model is not the one that the run of `tune` evaluated.

        Raises:
            UserError: It changed since, or is loaded in another precision.
        """
        if self.suite is not None:
            return
        measured = RunRecord.read(self.source.folder / "after").inputs["model_id"]
        if model_hash(measured) != model_hash(self.subject.identity):
            raise UserError(
                f"{self.source.final.path} is loaded as {self.subject.identity}, but the run "
                f"evaluated {measured} after its training; leave --dtype and --device out, or run "
                "the tune again"
            )

    def _finish(self) -> dict[str, Any]:
        if self.scores is not None:
            self.scores.compare(has_control="control" in self.sources)
        self.reporter.stage("report")
        found = write_all(
            Finished(
                config=self.config,
                series=self.series,
                sources=self.sources,
                given=self.given,
                reference=self.about,
                identities=self.identities,
                prompts=self.prompts,
                is_evaluated_here=self.suite is not None,
            )
        )
        self.reporter.finish()
        return found


def _check_control(control: Source, identity: str) -> None:
    """Raise if the control run is known to have begun with another model.

    Raises:
        UserError: It has.
    """
    if control.tune is None:
        return
    began = str(control.tune["model"]["id"])
    if model_hash(began) != model_hash(identity):
        raise UserError(
            f"the control run {control.folder} began with {began}, this one with {identity}; a "
            "control needs the same model, trained without the protection"
        )
