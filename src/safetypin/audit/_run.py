"""The stages of an audit in order, each once, then metrics.json and report.html."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safetypin.artifacts import (
    PromptSet,
    RunRecord,
    read_json,
    write_json,
)
from safetypin.audit._cells import (
    Cell,
    cell_mask,
    magnitudes,
    planned_cells,
    top_inputs,
    why_no_cells,
)
from safetypin.audit._config import AuditConfig
from safetypin.audit._cut import cut
from safetypin.audit._folder import check_folder
from safetypin.audit._metrics import examples, metrics, rule_of
from safetypin.audit._plan import SCORE_SETS, answering_of, scoring_of, suite_of
from safetypin.audit._prompts import check_prompts, read_prompts, short_sets
from safetypin.evaluate import judge_options
from safetypin.intervene import pruned
from safetypin.models import coverage, load_model, model_id
from safetypin.report import write_report
from safetypin.stages import (
    EVENTS_FILE,
    MIN_CALIBRATION,
    UNITS_PER_EXAMPLE,
    Output,
    Reporter,
    calibrate,
    discard,
    evaluate_model,
    held,
    model_inputs,
    now,
    read_calibration,
    run_stage,
    score_halves,
    second_judge,
)


def audit(
    config: AuditConfig, out: str | Path, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Audit a model: score, select, prune beside controls, evaluate, judge, report.

    Leaves `metrics.json`, `examples.json` and `report.html` in `out`. Stages that are done there
    with the same inputs are not run again, so a killed audit goes on where it was.

    Args:
        config: Model, prompts, scores, sets, controls, rule.
        out: The run folder.
        reporter: Told how it goes on.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: Bad input; nothing half-written is left under a final name.
    """
    prompts, out = read_prompts(config), Path(out)
    reporter = reporter or Reporter(events=out / EVENTS_FILE, quiet=True)
    with held(out), reporter.running():
        return _Audit(config, out, prompts, reporter).run()


class _Audit:
    """The state of one audit: the loaded model and the records of its stages."""

    def __init__(
        self, config: AuditConfig, out: Path, prompts: Mapping[str, PromptSet], reporter: Reporter
    ) -> None:
        self.config, self.out, self.prompts, self.reporter = config, out, prompts, reporter
        self.records: dict[str, RunRecord] = {}
        self.reused: dict[str, bool] = {}
        self.why_no_cells = "no set was tried"
        self.started, self.clock = now(), time.monotonic()
        self.model: PreTrainedModel
        self.tokenizer: PreTrainedTokenizerBase

    def run(self) -> dict[str, Any]:
        """Run every stage, then write metrics, examples and the report."""
        config, prompts = self.config, self.prompts
        self.reporter.stage("loading the model")
        loaded = load_model(config.model, dtype=config.dtype, device=config.device)
        self.model, self.tokenizer = loaded
        coverage(self.model, config.targets)  # raises here, not after the baseline
        self.model_id = model_id(self.model)
        check_folder(self.out, config, self.model_id)
        self.suite = suite_of(config, prompts)
        check_prompts(config, prompts, self.suite, self.model, self.tokenizer)
        for note in short_sets(config, prompts):
            self.reporter.note(note)
        cells = planned_cells(config)
        self.reporter.expect(self._units(len(cells)))
        baseline = self.stage("baseline", self._evaluation_inputs(None), self._baseline)
        if why_no_cells(baseline.result, rule_of(config)) is None and self._calibrated():
            self._scores()
            sets = self._sets()
            cells = [c for c in cells if sets.result["sets"][c.of]["num_selected"]]
            self.reporter.expect(self._units(len(cells)))
            self.why_no_cells = "every set is empty: the safety tops lie inside the utility tops"
            for cell in cells:
                self._cell(cell, sets)
        return self._finish()

    def stage(self, name: str, inputs: Mapping[str, Any], compute: Any) -> RunRecord:  # noqa: ANN401
        """Run one stage in its folder, or take it from there."""
        self.reporter.stage(name, self._stage_units(name))
        record, reused = run_stage(self.out / name, name, inputs, compute, reporter=self.reporter)
        self.records[name], self.reused[name] = record, reused
        return record

    def _units(self, num_cells: int) -> float:
        asked = len(self.prompts["safety"]) + len(self.prompts["utility"])
        scoring = asked * (self.config.max_new_tokens + UNITS_PER_EXAMPLE)
        return self.suite.units * (1 + num_cells) + scoring

    def _stage_units(self, name: str) -> float:
        if name.startswith(("calibration-", "scores-")):
            num_prompts = len(self.prompts[name.partition("-")[2]])
            generated = name.startswith("calibration-")
            unit = float(self.config.max_new_tokens) if generated else UNITS_PER_EXAMPLE
            return num_prompts * unit
        return 0.0 if name == "sets" else self.suite.units

    def _evaluation_inputs(self, mask_fingerprint: str | None) -> dict[str, Any]:
        return {**self._model_inputs(), "mask": mask_fingerprint, "suite": self.suite.inputs}

    def _model_inputs(self) -> dict[str, Any]:
        return model_inputs(self.model, self.tokenizer, self.model_id)

    def _baseline(self, folder: Path) -> Any:  # noqa: ANN401
        return evaluate_model(
            folder, self.model, self.tokenizer, self.suite, reporter=self.reporter
        )

    def _calibrated(self) -> bool:
        """Calibrate both sets; return whether the model refused often enough to score."""
        config = self.config
        for name, keep in SCORE_SETS.items():
            options = answering_of(config)
            inputs = {
                **self._model_inputs(),
                "prompts": self.prompts[name].fingerprint,
                "keep": keep.value,
                "judge": config.judge,
                "judge_options": config.judge_options,
                **second_judge(config.judge, judge_options(config.judge_options)),
                **options,
            }
            record = self.stage(
                f"calibration-{name}",
                inputs,
                lambda folder, name=name, keep=keep, options=options: calibrate(
                    folder,
                    self.model,
                    self.tokenizer,
                    self.prompts[name],
                    keep=keep,
                    judge_name=config.judge,
                    judge_options=judge_options(config.judge_options),
                    reporter=self.reporter,
                    **options,
                ),
            )
            if record.result["num_kept"] < MIN_CALIBRATION:
                self.why_no_cells = (
                    f"only {record.result['num_kept']} of {record.result['num_asked']} {name} "
                    f"prompts can be scored on ({keep.value} is what counts); "
                    f"{MIN_CALIBRATION} are needed"
                )
                self.reporter.note(self.why_no_cells)
                return False
        return True

    def _scores(self) -> None:
        prompts = {
            name: read_calibration(self.out / f"calibration-{name}", name) for name in SCORE_SETS
        }
        self.score_inputs = {
            name: {
                **self._model_inputs(),
                "prompts": prompts[name].fingerprint,
                "fraction": self.config.overlap_fraction,
                **scoring_of(self.config, name).inputs,
            }
            for name in SCORE_SETS
        }
        if self._sets_done():
            return
        for name, calibrated in prompts.items():
            self.stage(
                f"scores-{name}",
                self.score_inputs[name],
                lambda folder, name=name, prompts=calibrated: score_halves(
                    folder,
                    self.model,
                    self.tokenizer,
                    prompts,
                    scoring_of(self.config, name),
                    fraction=self.config.overlap_fraction,
                    reporter=self.reporter,
                ),
            )

    def _sets_inputs(self) -> dict[str, Any]:
        config = self.config
        return {
            "scores": self.score_inputs,
            "grid": config.grid,
            "group": config.group,
            "overlap_fraction": config.overlap_fraction,
            "tops": [arm for arm in config.controls if arm.startswith("top_")],
        }

    def _sets_done(self) -> bool:
        """Whether the sets are cut, so that the scores, which were deleted then, are not needed."""
        folder = self.out / "sets"
        if self.config.keep_scores or not (folder / "run.json").exists():
            return False
        if RunRecord.read(folder).inputs != json.loads(json.dumps(self._sets_inputs())):
            return False
        for name in SCORE_SETS:
            stage = f"scores-{name}"
            self.records[stage] = RunRecord(**read_json(folder / f"{name}.record.json"))
            self.reused[stage] = True
            self.reporter.stage(stage, self._stage_units(stage))
        return True

    def _sets(self) -> RunRecord:
        def compute(folder: Path) -> Output:
            return cut(folder, self.out, self.config, self.records)

        record = self.stage("sets", self._sets_inputs(), compute)
        if not self.config.keep_scores:
            for name in SCORE_SETS:
                discard(self.out / f"scores-{name}")
        return record

    def _cell(self, cell: Cell, sets: RunRecord) -> None:
        fingerprint = sets.result["sets"][cell.of]["fingerprint"]
        inputs = self._evaluation_inputs(fingerprint) | {"arm": cell.arm, "seed": cell.seed}
        inputs |= top_inputs(cell, sets.result["sets"], self.out / "sets")

        def compute(folder: Path) -> Any:  # noqa: ANN401
            mask = cell_mask(cell, self.out / "sets", self.model)
            sizes = magnitudes(cell, mask, self.out / "sets", self.model)
            with pruned(self.model, mask):
                output = self._baseline(folder)
            return output._replace(result={**output.result, "magnitudes": sizes})

        self.stage(f"cells/{cell.id}", inputs, compute)

    def _finish(self) -> dict[str, Any]:
        run = {"started": self.started, "seconds": round(time.monotonic() - self.clock, 1)}
        found = metrics(
            self.config,
            self.model,
            self.model_id,
            self.prompts,
            self.records,
            self.reused,
            run,
            why_no_cells=self.why_no_cells,
        )
        shown = examples(self.out, found, self.records)
        write_json(self.out / "metrics.json", found)
        if shown is None:
            (self.out / "examples.json").unlink(missing_ok=True)
        else:
            write_json(self.out / "examples.json", shown)
        write_report(self.out)
        self.reporter.finish()
        return found
