"""What of an experiment is done, and what would be run."""

import dataclasses
from pathlib import Path

from safetypin.artifacts import RunRecord, payload_hashes
from safetypin.experiment._plan import IDENTIFY, Plan
from safetypin.stages import TrackConfig, TuneConfig, is_unfinished

RECORDS = "records"
METRICS_FILE = "metrics.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One part of an experiment.

    Attributes:
        name: Of its folder.
        about: What it does, in one line.
        state: `done`, `begun` or `to do`.
    """

    name: str
    about: str
    state: str


def steps_of(plan: Plan) -> list[Step]:
    """Return every part in order; nothing is loaded, so a changed file shows when it is run."""
    steps = [] if plan.identify is None else [_identify_step(plan, plan.identify)]
    for run in plan.runs:
        tune, name = run.tune, f"{run.name}/tune"
        about = f"train with --protect {tune.protect}, seed {run.seed}, on {tune.data}"
        steps.append(Step(name=name, about=about, state=_part_state(plan, name, tune)))
        if run.track is not None:
            name = f"{run.name}/track"
            beside = Path(run.track.control).parent.name if run.track.control else ""
            about = f"follow what moved{f', beside {beside}' if beside else ''}"
            steps.append(Step(name=name, about=about, state=_part_state(plan, name, run.track)))
    return steps


def _identify_step(plan: Plan, config: TrackConfig) -> Step:
    shares = ", ".join(
        f"{name} {value:g}" for name in ("q", "p") if (value := getattr(config, name)) is not None
    )
    scored = f"score {config.reference} by {config.method}, cut the set"
    return Step(
        name=IDENTIFY,
        about=f"{scored} ({shares})" if shares else scored,
        state=_state(plan.out / IDENTIFY / "set", plan.out / IDENTIFY),
    )


def is_stale(record: Path, folder: Path) -> bool:
    """Whether a part was recorded, but its numbers are gone or others since.

    Args:
        record: Folder of the part's record.
        folder: Its run folder.
    """
    if not (record / "run.json").exists():
        return False
    if not (folder / METRICS_FILE).exists():
        return True
    return payload_hashes(folder, [METRICS_FILE]) != RunRecord.read(record).result


def _part_state(plan: Plan, name: str, settings: TuneConfig | TrackConfig) -> str:
    record, folder = plan.out / RECORDS / name, plan.out / name
    state = _state(record, folder)
    if state != "done":
        return state
    known = RunRecord.read(record).inputs["settings"]
    same = known == settings.model_dump(mode="json") and not is_stale(record, folder)
    same = same and not is_unfinished(folder)
    return "done" if same else "begun"


def _state(record: Path, folder: Path) -> str:
    if (record / "run.json").exists():
        return "done"
    return "begun" if folder.exists() else "to do"
