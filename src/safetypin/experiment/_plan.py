"""What an experiment runs, in order: one set, a tuning for every arm and seed, and its track."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetypin.artifacts import UserError
from safetypin.experiment._file import Arm, Experiment
from safetypin.intervene import PROTECTIONS
from safetypin.stages import TrackConfig, TuneConfig, make_track_config, make_tune_config

IDENTIFY = "identify"
Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training of one arm.

    Attributes:
        arm: What is trained.
        seed: Of the training.
        tune: How it is trained and measured.
        track: How what moved is followed; None for an arm that stands beside.
    """

    arm: Arm
    seed: int
    tune: TuneConfig
    track: TrackConfig | None

    @property
    def name(self) -> str:
        """Name of its folder, such as `frozen-42`."""
        return f"{self.arm.name}-{self.seed}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of an experiment.

    Attributes:
        experiment: What the file says.
        out: The run folder.
        identify: How the set is found; None where arms are compared that make their own.
        runs: In order; of a seed the arm in question comes last, so that its controls are there.
    """

    experiment: Experiment
    out: Path
    identify: TrackConfig | None
    runs: tuple[Run, ...]

    def of(self, arm: Arm) -> tuple[Run, ...]:
        """Return the runs of an arm, by seed."""
        return tuple(run for run in self.runs if run.arm == arm)


def make_plan(experiment: Experiment, out: Path) -> Plan:
    """Make and check the settings of every run.

    Raises:
        UserError: A value is wrong or missing.
    """
    first, *others = experiment.arms
    runs = (
        _run(experiment, arm, seed, out)
        for seed in experiment.seeds
        for arm in (*others, first)
        if seed in experiment.seeds_of(arm)
    )
    return Plan(
        experiment=experiment,
        out=out,
        identify=None
        if experiment.compares
        else _track_config(experiment, {"run": str(out / IDENTIFY)}),
        runs=tuple(runs),
    )


def _run(experiment: Experiment, arm: Arm, seed: int, out: Path) -> Run:
    track = None
    if arm == experiment.arms[0] and not experiment.compares:
        given = {"run": str(out / f"{arm.name}-{seed}" / "tune"), "groups": _set_folder(out)}
        controls = [a for a in experiment.arms[1:] if seed in experiment.seeds_of(a)]
        if controls:
            given["control"] = str(out / f"{controls[0].name}-{seed}" / "tune")
        track = _track_config(experiment, given)
    return Run(arm=arm, seed=seed, tune=_tune_config(experiment, arm, seed, out), track=track)


def _set_folder(out: Path) -> str:
    return str(out / IDENTIFY / "set")


def _tune_config(experiment: Experiment, arm: Arm, seed: int, out: Path) -> TuneConfig:
    values = {**_of(TuneConfig, experiment.settings), **arm.settings, "seed": seed}
    kind = PROTECTIONS.get(values["protect"])
    if experiment.compares:
        values["draw_seed"] = seed
        if kind is not None and kind.needs_basis:
            values["keep_scores"] = True  # for the other arms; the experiment discards them
    elif kind is not None and kind.needs_mask:
        values["mask"] = _set_folder(out)
    return _made(
        f"arm {arm.name!r}",
        lambda: make_tune_config(values.pop("model", None), None, None, values),
    )


def _track_config(experiment: Experiment, given: Mapping[str, Any]) -> TrackConfig:
    values = _of(TrackConfig, experiment.settings)
    values["reference"] = experiment.settings.get("model")
    values["seed"] = experiment.settings.get("sample_seed")
    options = {**values, **given}
    return _made("settings", lambda: make_track_config(options.pop("run"), None, None, options))


def _of(kind: type[TuneConfig | TrackConfig], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in kind.model_fields}


def _made(what: str, make: Callable[[], Config]) -> Config:
    try:
        return make()
    except UserError as error:
        raise UserError(f"{what} of the experiment: {error}") from error
