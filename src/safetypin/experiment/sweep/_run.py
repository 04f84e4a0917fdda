"""Run a sweep: prepare once, then change, measure and restore, cell after cell."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetypin.artifacts import RunRecord, UserError, write_json
from safetypin.audit import check_prompts, read_prompts, short_sets
from safetypin.experiment.sweep._cells import Cell
from safetypin.experiment.sweep._collect import collect
from safetypin.experiment.sweep._file import Sweep
from safetypin.experiment.sweep._inputs import CELLS, cell_inputs
from safetypin.experiment.sweep._making import Making
from safetypin.experiment.sweep._measure import Battery, battery, measure
from safetypin.experiment.sweep._prepare import prepare
from safetypin.experiment.sweep._prepared import Prepared
from safetypin.experiment.sweep._restored import check_restored, weight_sums
from safetypin.experiment.sweep._shards import Shard, holding
from safetypin.experiment.sweep._tables import write_tables
from safetypin.experiment.sweep.methods import Random
from safetypin.models import load_model, model_id
from safetypin.report import write_report
from safetypin.stages import (
    UNITS_PER_EXAMPLE,
    Output,
    Reporter,
    Series,
    Subject,
    calibrated,
    held,
)

MakeReporter = Callable[[Path], Reporter]


@dataclasses.dataclass
class Answering:
    """How the model answers the prompts that it is scored on."""

    max_new_tokens: int
    answer_batch_size: int
    judge: str
    judge_options: tuple[str, ...]
    plain: bool
    system: str | None


def run_sweep(
    sweep: Sweep, out: Path, *, reporter: Reporter, shard: Shard | None = None
) -> dict[str, Any]:
    """Run every cell, or those of one shard; then metrics.json, tables, figures and the page.

    The model is loaded once, changed in place and restored bit for bit; what is done in `out` with
    the same inputs is not done again, so a killed sweep goes on where it was.

    Args:
        sweep: What is run.
        out: The run folder; shards share it.
        reporter: Told how it goes on.
        shard: Which part of the cells; all where None.

    Returns:
        The content of metrics.json: of all cells that are done so far, by whichever shard.

    Raises:
        UserError: Bad input; nothing half-written is left under a final name.
    """
    prompts = read_prompts(sweep.config)
    with reporter.running():
        with holding(out, shard, reporter):
            running = _Running(sweep, out, prompts, reporter)
            running.prepare()
            if shard is None:
                return running.run(None)
        with held(out / "shards" / f"{shard.number}-of-{shard.of}"):
            return running.run(shard)


@contextmanager
def _naming(method: str) -> Iterator[None]:
    """Put the method's name before what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"[methods.{method}]: {error}") from error


class _Running:
    """The state of one sweep: the loaded model and what was prepared."""

    def __init__(
        self, sweep: Sweep, out: Path, prompts: Mapping[str, Any], reporter: Reporter
    ) -> None:
        self.sweep, self.out, self.prompts, self.reporter = sweep, out, prompts, reporter
        self.series = Series(out, reporter)
        config = sweep.config
        reporter.stage("loading the model")
        model, tokenizer = load_model(config.model, dtype=config.dtype, device=config.device)
        self.subject = Subject(model=model, tokenizer=tokenizer, identity=model_id(model))
        self.reference = None
        if sweep.measures.reference is not None:
            other = sweep.measures.reference
            self.reference = load_model(other, dtype=config.dtype, device=config.device)[0]
        self.reference_id = self.reference and model_id(self.reference)
        self.battery: Battery = battery(sweep, prompts)
        self.weights = weight_sums(model)

    def prepare(self) -> None:
        """Check everything, measure the untouched model, and make what cells are cut from."""
        config, subject = self.sweep.config, self.subject
        self._check_methods()
        check_prompts(config, self.prompts, self.battery.suite, subject.model, subject.tokenizer)
        self.battery.check(subject.model, subject.tokenizer)
        for note in short_sets(config, self.prompts):
            self.reporter.note(note)
        self.reporter.expect(self._units())
        self.baseline = self.series.run(
            "baseline", self._inputs(), self._measured, units=self.battery.units
        )
        answering = Answering(
            config.max_new_tokens, config.batch_size, config.judge, config.judge_options,
            config.plain, config.system,
        )  # fmt: skip
        answered = {
            name: calibrated(self.series, answering, subject, name, self.prompts[name])
            for name in ("safety", "utility")
        }
        making = Making(
            sweep=self.sweep,
            series=self.series,
            subject=subject,
            reference=self.reference,
            prompts=answered,
        )
        self.made = prepare(making)
        self.calibration = {name: found.fingerprint for name, found in answered.items()}
        self.prepared = Prepared(self.out, subject.model, self.reference, config.seed)
        for name, method in self.sweep.methods.items():
            with _naming(name):
                method.check_prepared(self.prepared)

    def _check_methods(self) -> None:
        for name, method in self.sweep.methods.items():
            with _naming(name):
                if method.needs_reference and self.reference is None:
                    raise UserError("needs a second model; name one as `reference` in [settings]")
                method.check(self.subject.model, self.sweep.config.targets)

    def run(self, shard: Shard | None) -> dict[str, Any]:
        """Run the cells, then write what is found."""
        cells = self.sweep.cells if shard is None else shard.part(self.sweep.cells)
        for place, cell in enumerate(cells, start=1):
            self._cell(cell, f"[{place}/{len(cells)}] ")
        if shard is None:
            return self._write()
        with holding(self.out, shard, self.reporter):
            return self._write()

    def _units(self) -> float:
        asked = sum(len(self.prompts[name]) for name in ("safety", "utility"))
        scorers = {m.scorer for m in self.sweep.methods.values() if m.scorer is not None}
        scoring = asked * (self.sweep.config.max_new_tokens + UNITS_PER_EXAMPLE * len(scorers))
        return self.battery.units * (1 + len(self.sweep.cells)) + scoring

    def _inputs(self) -> dict[str, Any]:
        return {**self.subject.inputs, **self.battery.inputs}

    def _measured(self, folder: Path) -> Output:
        subject = self.subject
        return measure(
            folder, subject.model, subject.tokenizer, self.battery, reporter=self.reporter
        )

    def _cell(self, cell: Cell, place: str) -> RunRecord:
        self.reporter.note(f"{place}{cell.id}")
        return self.series.run(
            f"{CELLS}/{cell.id}",
            self._cell_inputs(cell),
            lambda folder: self._change_and_measure(cell, folder),
            units=self.battery.units,
        )

    def _cell_inputs(self, cell: Cell) -> dict[str, Any]:
        """Return what a cell depends on: a record with other inputs is of another sweep."""
        found = cell_inputs(self.sweep, cell)
        return {
            **self._inputs(),
            **found,
            "calibration": self.calibration,
            "scoring": {**found["scoring"], "reference_id": self.reference_id},
        }

    def _change_and_measure(self, cell: Cell, folder: Path) -> Output:
        method, control = self.sweep.of(cell), self.sweep.methods[cell.method]
        start = time.monotonic()
        if isinstance(control, Random):
            assert cell.like is not None
            assert cell.seed is not None
            made = method.control(self.prepared, cell.size, cell.like, cell.seed, control.match)
        else:
            made = method.change(self.prepared, cell.size, cell.id)
        with made.change:
            changed = time.monotonic() - start
            output = self._measured(folder)
            start = time.monotonic()
        # before there is a record: a wrong one would be kept, and so would those that follow
        check_restored(self.subject.model, self.weights, cell.id)
        result = {
            **output.result,
            "removed": dataclasses.asdict(made.removed),
            "change_s": round(changed + time.monotonic() - start, 3),
        }
        return output._replace(result=result)

    def _records(self) -> dict[str, RunRecord]:
        """Return the records of what is done with these settings; others count as not finished."""
        records, num_stale = {}, 0
        for cell in self.sweep.cells:
            name = f"{CELLS}/{cell.id}"
            if self.series.has(name, self._cell_inputs(cell)):
                records[cell.id] = RunRecord.read(self.out / name)
            else:
                num_stale += (self.out / name / "run.json").exists()
        if num_stale:
            self.reporter.note(
                f"{num_stale} cells were run with other settings and are left out as not finished; "
                "run their shards again with these"
            )
        return records

    def _write(self) -> dict[str, Any]:
        records = self._records()
        attacks = self.battery.attacks.attacks if self.battery.attacks else ()
        found = collect(
            self.sweep,
            self.subject,
            self.prompts,
            self.baseline,
            records,
            self.made,
            self.series,
            {how.name: how for how in attacks},
        )
        write_json(self.out / "metrics.json", found)
        write_tables(self.out, found)
        write_report(self.out)
        self.reporter.finish()
        return found
