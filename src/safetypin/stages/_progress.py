"""What runs and how long it still takes: a bar on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from safetypin.artifacts import append_line, read_lines

EVENTS_FILE = "events.jsonl"
PLAIN_INTERVAL = 15.0  # seconds between plain lines


class Reporter:
    """Tells a person how a run goes on, and writes the same as JSON lines.

    Work is counted in units of about one generated token, so that stages of different kinds
    share one estimate of the time that is left.
    """

    def __init__(
        self,
        *,
        total_units: float | int = 0.0,
        events: Path | None = None,
        quiet: bool = False,
        verbose: bool = False,
        console: Console | None = None,
    ) -> None:
        self._console = console or Console(file=sys.stderr)
        self._events, self._quiet, self._verbose = events, quiet, verbose
        self._total, self._done, self._reused = total_units, 0.0, 0.0
        self._stage_end = math.inf
        self._start = self._last_line = time.monotonic()
        self._stage = ""
        self._num_kept = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def running(self) -> Iterator["Reporter"]:
        """Show the bar while in the block, if there is a terminal."""
        if self._events is not None:
            read_lines(self._events)  # drops the half line that a killed run may have left
        if self._quiet or not self._console.is_terminal:
            yield self
            return
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            self._bar = bar
            self._task = bar.add_task("starting", total=max(self._total, 1.0), left="")
            try:
                yield self
            finally:
                self._bar = None

    def expect(self, total_units: float | int) -> None:
        """Say how much work there is in all."""
        self._total = max(total_units, 1.0)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=self._total)

    @property
    def progress(self) -> float:
        """The finished share of the work, in [0, 1]."""
        return min(self._done / max(self._total, 1.0), 1.0)

    def stage(self, name: str, units: float | int | None = None) -> None:
        """Say that a stage begins, and that the one before it is done.

        Args:
            name: What to show.
            units: Its work, which counts as done when the next stage begins, however much was
                reported: a stage may turn out smaller, or do a part twice. None: as reported.
        """
        self._close()
        if units is not None:
            self._stage_end = self._done + units
        self._stage = name
        self.event("stage", name=name)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=name)
        else:
            self._line(f"{name} ... {self.time_left()}")

    def advance(self, units: float | int, *, reused: bool = False) -> None:
        """Count finished work; what an earlier run did is no measure of the speed."""
        units = min(units, self._stage_end - self._done)
        self._done += units
        self._reused += units if reused else 0.0
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, left=self.time_left())
        elif time.monotonic() - self._last_line > PLAIN_INTERVAL:
            self._line(f"{self._stage}: {100 * self._done / max(self._total, 1):.0f} % of all")

    def counting(self, units_each: float) -> Callable[[int], None]:
        """Return what is told how many examples are done, and counts those that are new."""
        done = 0

        def progress(num_examples: int) -> None:
            nonlocal done
            self.advance(units_each * (num_examples - done))
            done = num_examples

        return progress

    def kept(self, name: str) -> None:
        """Take note of a stage that was done before with the same inputs."""
        self._num_kept += 1
        self.event("reused", name=name)

    def finish(self) -> None:
        """Say that all work is done, and how much of it was done before."""
        self._close()
        if self._num_kept:
            stages = "stage was" if self._num_kept == 1 else "stages were"
            self.note(f"{self._num_kept} {stages} done before with the same inputs, and kept")
        self.advance(max(self._total - self._done, 0.0), reused=True)
        self.event("finished")

    def _close(self) -> None:
        if math.isfinite(self._stage_end):
            self.advance(self._stage_end - self._done, reused=True)
        self._stage_end = math.inf

    def time_left(self) -> str:
        """Return the estimated time left, in words; empty before there is a measure."""
        fresh = self._done - self._reused
        if fresh <= 0 or self._total <= self._done:
            return ""
        seconds = (time.monotonic() - self._start) / fresh * (self._total - self._done)
        return (
            f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left"
        )

    def note(self, text: str) -> None:
        """Say something that the reader should know."""
        self.event("note", text=text)
        if not self._quiet:
            self._console.print(text, highlight=False, markup=False)

    def detail(self, text: str) -> None:
        """Say something that only `-v` shows."""
        self.event("detail", text=text)
        if self._verbose and not self._quiet:
            self._console.print(text, highlight=False, markup=False)

    def event(self, kind: str, **values: Any) -> None:  # noqa: ANN401 - any JSON value
        """Write one JSON line into the run folder."""
        if self._events is not None and self._events.parent.exists():
            at = round(time.time(), 3)
            append_line(self._events, {"time": at, "event": kind, **values})

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if not self._quiet:
            elapsed = time.monotonic() - self._start
            self._console.print(
                f"[{elapsed:5.0f} s] {text}".rstrip(), highlight=False, markup=False
            )
