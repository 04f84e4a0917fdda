"""The stages of one run, each in a folder of its own, and their records."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts import RunRecord
from safetypin.stages._describe import describe_run
from safetypin.stages._progress import Reporter
from safetypin.stages._run import Output, now, run_stage


class Series:
    """Runs stages in order and keeps what metrics.json says of them.

    Attributes:
        out: The run folder.
        reporter: Told how it goes on.
        records: Of every stage so far, by its name.
    """

    def __init__(self, out: Path, reporter: Reporter) -> None:
        self.out, self.reporter = out, reporter
        self.records: dict[str, RunRecord] = {}
        self._reused: dict[str, bool] = {}
        self._started, self._clock = now(), time.monotonic()

    def run(
        self,
        name: str,
        inputs: Mapping[str, Any],
        compute: Callable[[Path], Output],
        *,
        units: float = 0.0,
    ) -> RunRecord:
        """Run one stage in its folder, or take it from there."""
        self.reporter.stage(name, units)
        record, reused = run_stage(self.out / name, name, inputs, compute, reporter=self.reporter)
        self.records[name], self._reused[name] = record, reused
        return record

    def has(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether a stage is done with these inputs."""
        folder = self.out / name
        if not (folder / "run.json").exists():
            return False
        found: Mapping[str, Any] = RunRecord.read(folder).inputs
        return bool(found == json.loads(json.dumps(inputs)))

    def describe(self) -> dict[str, Any]:
        """Return the `run` part of metrics.json."""
        seconds = round(time.monotonic() - self._clock, 1)
        run = {"started": self._started, "seconds": seconds}
        return describe_run(self.records, self._reused, run)
