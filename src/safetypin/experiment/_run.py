"""Run an experiment: the set, the trainings, what moved, and the verdict; each part once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts import RunRecord, payload_hashes
from safetypin.experiment._plan import IDENTIFY, Plan, Run
from safetypin.experiment._state import METRICS_FILE, RECORDS, is_stale
from safetypin.experiment._write import write_all
from safetypin.prompts import load_prompts
from safetypin.stages import (
    CALIBRATION_STAGES,
    SCORE_STAGES,
    Output,
    Reporter,
    TrackConfig,
    TuneConfig,
    discard,
    discard_coefficients,
    discard_scores,
    held,
    identify,
    is_unfinished,
    now,
    run_stage,
    share_stages,
    track,
    tune,
)

# what runs under warp begin with, and the settings that each of these stages is made by
ROTATED_STAGES: dict[str, tuple[str, ...]] = {
    "calibration-safety": (),
    "basis": ("rotation", "targets", "layers"),
    "coefficients": ("rotation", "targets", "layers"),
    "set": ("rotation", "targets", "layers", "importance", "keep_ratio", "keep_group", "protect"),
}
DRAWS = {
    "basis": ("rotation",),
    "coefficients": ("rotation",),
    "set": ("rotation", "importance"),
}  # random: by the seed too

SOURCES = ("data", "eval_data", "attack", "harmless", "borderline", "text", "safety", "utility")
# what the tracks of one experiment have in common beside scores and answers
TRACK_STAGES = (*CALIBRATION_STAGES, *SCORE_STAGES, "groups", "noise")

MakeReporter = Callable[[Path], Reporter]


def run_experiment(plan: Plan, *, make_reporter: MakeReporter) -> dict[str, Any]:
    """Run everything that is not done yet, then write metrics.json, the table and the page.

    A killed experiment goes on where it was: a finished part is skipped, the others resume as
    `tune` and `track` do.

    Args:
        plan: What to run, and where.
        make_reporter: Makes the reporter of a run folder.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: Bad input, as `tune` and `track` say.
    """
    reporter = make_reporter(plan.out)
    with held(plan.out):
        return _Running(plan, reporter, make_reporter).run()


def alike(one: TuneConfig, other: TuneConfig) -> dict[str, bool]:
    """Return for each stage of warp whether two runs make the same there."""
    if not (one.is_rotated and other.is_rotated):
        return dict.fromkeys(ROTATED_STAGES, False)
    found = {}
    for stage, names in ROTATED_STAGES.items():
        same = all(getattr(one, name) == getattr(other, name) for name in names)
        is_drawn = any(getattr(one, name) == "random" for name in DRAWS.get(stage, ()))
        found[stage] = same and (not is_drawn or one.drawn_with == other.drawn_with)
    return found


class _Running:
    """The state of one experiment: the records of its parts."""

    def __init__(self, plan: Plan, reporter: Reporter, make_reporter: MakeReporter) -> None:
        self.plan, self.reporter, self.make_reporter = plan, reporter, make_reporter
        self.parts: dict[str, tuple[RunRecord, bool]] = {}
        self.started = now()
        first = self.plan.identify is not None
        self.num_parts = first + len(plan.runs) + sum(run.track is not None for run in plan.runs)

    def run(self) -> dict[str, Any]:
        """Run every part in order."""
        self.sources = self._fingerprints()
        self.set = None if self.plan.identify is None else self._identify(self.plan.identify)
        for run in self.plan.runs:
            self._tune(run)
            if run.track is not None:
                self._track(run, run.track)
        for run in self.plan.runs:
            discard_coefficients(self._folder(run, "tune"))
        found = write_all(self.plan, self.set, self.parts, self.started)
        if self.plan.identify is not None and not self.plan.identify.keep_scores:
            discard_scores(self.plan.out / IDENTIFY)
        self.reporter.event("finished")
        return found

    def _identify(self, config: TrackConfig) -> RunRecord:
        self._say(IDENTIFY)
        out = self.plan.out / IDENTIFY
        return identify(config, out, reporter=self.make_reporter(out))

    def _fingerprints(self) -> dict[str, str]:
        """Return the fingerprints of all prompt sources, so that a changed file is noticed."""
        settings = self.plan.runs[0].tune.model_dump()
        columns = {
            "prompt_column": settings["prompt_column"],
            "response_column": settings["response_column"],
        }
        return {
            name: load_prompts(
                settings[name], **(columns if name in ("data", "eval_data") else {})
            ).fingerprint
            for name in SOURCES
            if settings[name] is not None
        }

    def _folder(self, run: Run, kind: str) -> Path:
        return self.plan.out / run.name / kind

    def _tune(self, run: Run) -> None:
        folder = self._folder(run, "tune")
        share_stages(self._folder(self.plan.runs[0], "tune"), folder, ["before"])
        inputs: dict[str, Any] = {
            "settings": run.tune.model_dump(mode="json"),
            "sources": self.sources,
        }
        if self.set is None:
            self._share_rotated(run, folder)
        else:
            inputs |= {
                "model_id": self.set.inputs["scores"]["safety"]["model_id"],
                "set": self.set.result["fingerprint"],
            }

        def compute() -> None:
            tune(run.tune, folder, reporter=self.make_reporter(folder))

        self._part(f"{run.name}/tune", inputs, compute)

    def _share_rotated(self, run: Run, folder: Path) -> None:
        """Take the answers, the basis and the mask of a run that makes the same."""
        for other in self.plan.runs[: self.plan.runs.index(run)]:
            done, same = self._folder(other, "tune"), alike(other.tune, run.tune)
            share_stages(done, folder, [name for name in ROTATED_STAGES if same[name]])

    def _track(self, run: Run, config: TrackConfig) -> None:
        folder = self._folder(run, "track")
        identified = self.plan.out / IDENTIFY
        share_stages(identified, folder, (*CALIBRATION_STAGES, *SCORE_STAGES))
        for other in self.plan.of(run.arm):
            if other != run:
                share_stages(self._folder(other, "track"), folder, TRACK_STAGES)
        names = [run.name]
        if config.control is not None:
            names.append(Path(config.control).parent.name)
        inputs = {
            "settings": config.model_dump(mode="json"),
            "trainings": {name: self._hashes(name) for name in names},
            "sources": self.sources,
            "set": self.set.result["fingerprint"] if self.set else None,
        }

        def compute() -> None:
            track(config, folder, reporter=self.make_reporter(folder))

        self._part(f"{run.name}/track", inputs, compute)
        if not config.keep_scores:
            discard_scores(folder)  # a track that was done before has left what was shared again

    def _hashes(self, name: str) -> dict[str, str]:
        return dict(RunRecord.read(self.plan.out / name / "tune" / "training").files)

    def _part(self, name: str, inputs: Mapping[str, Any], compute: Callable[[], None]) -> None:
        """Run one part, or take its record where it is done and its numbers are still the same."""
        self._say(name)
        record, folder = self.plan.out / RECORDS / name, self.plan.out / name

        def recorded(_: Path) -> Output:
            compute()
            hashes = payload_hashes(folder, [METRICS_FILE])
            return Output(hashes, [], is_final=not is_unfinished(folder))

        if is_stale(record, folder):
            discard(record)
        self.parts[name] = run_stage(record, name, inputs, recorded, reporter=self.reporter)

    def _say(self, name: str) -> None:
        before = self.plan.identify is not None and name != IDENTIFY
        self.reporter.note(f"[{len(self.parts) + 1 + before}/{self.num_parts}] {name}")
