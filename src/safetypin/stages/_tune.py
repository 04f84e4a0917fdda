"""Fine-tune a model under a protection, measured before and after on the same prompts."""

import gc
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from safetypin.artifacts import PromptSet, RunRecord, write_json
from safetypin.evaluate import judge_options, perplexity, tokenized_requests
from safetypin.models import load_model, model_id
from safetypin.prompts import batches, window
from safetypin.report import write_tune_report
from safetypin.stages._describe import (
    describe_judge,
    describe_model,
    describe_prompts,
    example_rows,
)
from safetypin.stages._evaluate import Suite, evaluate_model
from safetypin.stages._progress import EVENTS_FILE, Reporter
from safetypin.stages._rates import finite, read_perplexity
from safetypin.stages._run import Output, discard, held
from safetypin.stages._score import UNITS_PER_EXAMPLE
from safetypin.stages._series import Series
from safetypin.stages._subject import SCORED, Subject
from safetypin.stages._tune_chosen import chosen_set, kept_if_refused
from safetypin.stages._tune_columns import spread_note
from safetypin.stages._tune_config import TuneConfig
from safetypin.stages._tune_data import fitting, read_sets, short_sets
from safetypin.stages._tune_exact import check_solutions, solved
from safetypin.stages._tune_folder import check_folder
from safetypin.stages._tune_metrics import compared, describe_training, judged
from safetypin.stages._tune_set import (
    Given,
    check_given,
    given_set,
    read_protected,
)
from safetypin.stages._tune_training import Trainee, describe_protection, training_log
from safetypin.stages._warp import basis_in, basis_result

SCHEMA = 1
UNITS_PER_TEXT = 10.0


def tune(
    config: TuneConfig, out: str | Path, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Fine-tune a model under a protection: set, evaluation, training, evaluation, gates, report.

    Leaves `metrics.json`, `examples.json`, `report.html` and the model, `training/model`, in
    `out`. Stages that are done there with the same inputs are not run again, and a training that
    was killed goes on at its newest whole checkpoint.

    Args:
        config: Model, data, protection, training, prompts, gates.
        out: The run folder.
        reporter: Told how it goes on.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: Bad input; nothing half-written is left under a final name.
    """
    check_given(config)
    sets, out = read_sets(config), Path(out)
    reporter = reporter or Reporter(events=out / EVENTS_FILE, quiet=True)
    with held(out), reporter.running():
        return _Tuning(config, Series(out, reporter), sets).run()


class _Tuning:
    """The state of one run: the loaded model and the records of its stages."""

    def __init__(self, config: TuneConfig, series: Series, sets: dict[str, PromptSet]) -> None:
        self.config, self.series, self.sets = config, series, sets
        self.out, self.reporter = series.out, series.reporter
        self.num_left_out = 0
        self.subject: Subject

    def run(self) -> dict[str, Any]:
        """Run every stage, then write metrics, examples and the report."""
        self.reporter.stage("loading the model")
        self.subject = self._load(self.config.model, self.config.dtype)
        self.about = describe_model(
            self.config.model, self.subject.model, self.subject.identity, self.config.targets
        )
        given = self._check()
        if self.config.exact_match and "task" in self.sets:
            check_solutions(self.sets["task"])
        for note in self._notes():
            self.reporter.note(note)
        self.reporter.expect(self._units())
        with kept_if_refused(self.out):
            chosen = chosen_set(self.series, self.config, self.subject, self.sets, given)
            inputs = self._training_inputs()
            check_folder(self.out / "training", inputs)
        # a mask takes a byte a weight: the training reads its own, and lets it go
        del given
        before = self._evaluate("before")
        # an infinite perplexity before, with which nothing compares, is said before the training
        read_perplexity(before.result["perplexity"]).ratio(
            read_perplexity(before.result["perplexity"])
        )
        training = self._train(inputs)
        self._reload()
        after = self._evaluate("after")
        return self._finish(chosen, before, training, after)

    def _load(self, name: str, dtype: str) -> Subject:
        model, tokenizer = load_model(name, dtype=dtype, device=self.config.device)
        return Subject(model=model, tokenizer=tokenizer, identity=model_id(model))

    def _check(self) -> Given | None:
        """Raise, before anything is written, if a prompt, the set or the data does not fit.

        Returns:
            The set that `--mask` names, if it does.
        """
        config, subject = self.config, self.subject
        how: dict[str, Any] = {"plain": config.plain, "system": config.system}
        self.suite = self._suite()
        self.suite.check(subject.model, subject.tokenizer)
        if "task" in self.sets:
            self.sets["task"], self.num_left_out = fitting(
                self.sets["task"], subject.model, subject.tokenizer, limit=config.window, **how
            )
        for name in config.scored:
            if self.sets[name].has_responses:
                limit = window(subject.model, subject.tokenizer)
                batches(self.sets[name], subject.tokenizer, max_length=limit, **how)
            else:
                tokenized_requests(
                    subject.model,
                    subject.tokenizer,
                    self.sets[name],
                    max_new_tokens=config.max_new_tokens,
                    **how,
                )
        given = (
            given_set(config, subject.identity, subject.model) if config.mask is not None else None
        )
        self.trainee = Trainee(config, subject, self.sets["data"])
        folder = None if given is None else given.folder
        self.trainee.basis = None if folder is None else basis_in(folder, subject, config)
        self.trainee.check(None if given is None else given.mask)
        if given is not None and config.control is None:
            check_folder(self.out / "training", self.trainee.inputs(given.mask))
        return given

    def _suite(self) -> Suite:
        config, sets = self.config, self.sets
        kinds = {"harmful": "attack", "harmless": "harmless", "borderline": "borderline"}
        return Suite(
            prompts={kind: sets[name] for kind, name in kinds.items()},
            text=sets["text"],
            max_new_tokens=config.max_new_tokens,
            batch_size=config.answer_batch_size,
            judge=config.judge,
            judge_options=judge_options(config.judge_options),
            window=config.window,
            plain=config.plain,
            system=config.system,
        )

    def _notes(self) -> list[str]:
        notes = [*short_sets(self.config, self.sets), *self.trainee.notes]
        if columns := spread_note(self.config, self.subject.model):
            notes.append(columns)
        if self.num_left_out:
            notes.append(
                f"{self.num_left_out} held-out examples have no token of their response inside "
                f"the window of {self.config.window}; the task loss is measured on the other "
                f"{len(self.sets['task'])}"
            )
        return notes

    def _units(self) -> float:
        asked = sum(len(self.sets[name]) for name in self.config.scored)
        scoring = asked * (self.config.max_new_tokens + UNITS_PER_EXAMPLE)
        return scoring + 2 * self._evaluation_units() + self.trainee.units

    def _evaluation_units(self) -> float:
        task, config = self.sets.get("task"), self.config
        answering = config.exact_match_tokens if config.exact_match else 0
        return self.suite.units + (UNITS_PER_TEXT + answering) * (len(task) if task else 0)

    def _evaluate(self, name: str) -> RunRecord:
        task = self.sets.get("task")
        inputs = {
            **self.subject.inputs,
            "suite": self.suite.inputs,
            "task": task and task.fingerprint,
        }
        if self.config.exact_match:
            inputs["exact_match"] = self.config.exact_match_tokens
        units = self._evaluation_units()
        return self.series.run(name, inputs, self._answer, units=units)

    def _answer(self, folder: Path) -> Output:
        """Evaluate the model as it stands, and measure its loss on the held-out responses."""
        model, tokenizer = self.subject.model, self.subject.tokenizer
        output = evaluate_model(folder, model, tokenizer, self.suite, reporter=self.reporter)
        task, found = self.sets.get("task"), None
        if task is not None:
            suite = self.suite
            how: dict[str, Any] = {"plain": suite.plain, "system": suite.system}
            measured = perplexity(model, tokenizer, task, window=suite.window, **how)
            self.reporter.advance(UNITS_PER_TEXT * len(task))
            losses = [finite(loss) for loss in measured.losses]
            found = {"losses": losses, "counts": list(measured.counts)}
            if self.config.exact_match:
                found["exact"] = solved(self.subject, task, self.config)
        return output._replace(result={**output.result, "task": found})

    def _training_inputs(self) -> dict[str, Any]:
        """Raise if the model cannot be trained like this; return what the result depends on."""
        mask = read_protected(self.out, self.config)
        if self.config.is_rotated:
            self.trainee.basis = basis_in(self.out, self.subject, self.config)
        self.trainee.check(mask)
        return self.trainee.inputs(mask)

    def _train(self, inputs: dict[str, Any]) -> RunRecord:
        read = partial(read_protected, self.out, self.config)
        record = self.series.run(
            "training",
            inputs,
            partial(self.trainee.train, inputs=inputs, read=read, reporter=self.reporter),
            units=self.trainee.units,
        )
        if self.config.save_steps is None:  # else they are for `track`
            discard(self.out / "training" / "checkpoints")
        return record

    def _reload(self) -> None:
        """Take the saved model in place of the one in memory: what the user gets is measured."""
        del self.subject
        del self.trainee
        gc.collect()  # a trainer and its model refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.reporter.stage("loading the tuned model")
        # full fine-tuning saves float32, whatever it began with
        self.subject = self._load(str(self.out / "training" / "model"), self.about["dtype"])

    def _finish(
        self,
        chosen: RunRecord | None,
        before: RunRecord,
        training: RunRecord,
        after: RunRecord,
    ) -> dict[str, Any]:
        config = self.config
        sources = {kind: getattr(config, kind, config.data) for kind in self.sets}
        if config.eval_data is not None:
            sources["task"] = config.eval_data
        found: dict[str, Any] = {
            "schema": SCHEMA,
            "kind": "tune",
            "safetypin": version("safetypin"),
            "preset": config.preset,
            "settings": config.model_dump(mode="json"),
            "model": self.about,
            "judge": describe_judge(config.judge, config.max_new_tokens, self.suite.judge_options),
            "prompts": describe_prompts(self.sets, sources),
            "protect": describe_protection(config),
            "set": chosen and {**chosen.result, "calibration": self._calibration()},
            "basis": basis_result(self.series) if config.is_rotated else None,
            "training": describe_training(training, training_log(self.out / "training")),
            **compared(before.result, after.result, config.max_degenerate),
        }
        found |= judged(found, config.gates)
        found["run"] = self.series.describe()
        folders = self.out / "before", self.out / "after"
        rows = example_rows(folders, (before.result, after.result))
        write_json(self.out / "metrics.json", found)
        write_json(self.out / "examples.json", {"rows": rows})
        write_tune_report(self.out)
        self.reporter.finish()
        return found

    def _calibration(self) -> dict[str, Any] | None:
        records = {name: self.series.records.get(f"calibration-{name}") for name in SCORED}
        found = {name: record.result for name, record in records.items() if record is not None}
        return found or None
