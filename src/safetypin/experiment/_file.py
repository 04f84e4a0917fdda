"""The TOML file of an experiment: arms, seeds, settings of every stage, and its scales."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safetypin.artifacts import UserError
from safetypin.stages import TrackConfig, TuneConfig, nearest

DEFAULT_SCALE = "small"
# what the experiment itself says of every run
OWN = frozenset({
    "run", "groups", "control", "mask", "set", "protect", "seed", "preset", "reference",
    "rescore", "any_model", "draw_seed",
})  # fmt: skip
SETTINGS = frozenset({*TuneConfig.model_fields, *TrackConfig.model_fields}) - OWN
ARM = frozenset(TuneConfig.model_fields) - OWN | {"about", "protect", "num_seeds", "control"}

PROTECTIONS_COMPARED = "protections"
Question = Literal["A/B", "C/D", "protections"]

Values = Mapping[str, Any]
Kind = TypeVar("Kind", bound=BaseModel)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scale(_Table):
    """What one scale changes.

    Attributes:
        takes: How long it takes and on what, in words; "" where that was not measured.
        seeds: Of the trainings; those of the file where None.
        settings: Beside those of the file.
        arms: What it changes of an arm, by the arm's name.
    """

    takes: str = ""
    seeds: tuple[int, ...] | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict)


class ExperimentFile(_Table):
    """An experiment as its file says it.

    Attributes:
        title: What it is, in one line.
        about: What is done and why, in a few sentences.
        hypotheses: Which hypotheses of the source documents it is about; or `protections`: which
            of the arms loses least, where the last arm is the one without protection.
        seeds: Of the trainings.
        settings: Of `safetypin tune` and `safetypin track`, by their names.
        arms: By name; the first is what the hypotheses are about, the others are beside it.
        scales: By name.
    """

    title: str
    about: str = ""
    hypotheses: Question
    seeds: tuple[int, ...] = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = Field(min_length=1)
    scales: dict[str, Scale] = Field(min_length=1)


class Arm(_Table):
    """One way to train, at one scale.

    Attributes:
        name: As the file calls it.
        about: What it is, in one line.
        num_seeds: How many of the seeds it is trained with, from the first; all where None.
        settings: Of `safetypin tune`, `protect` among them.
    """

    name: str
    about: str
    num_seeds: int | None = Field(ge=1)
    settings: dict[str, Any]


class Experiment(_Table):
    """An experiment at one scale: what is run.

    Attributes:
        title: What it is, in one line.
        about: What is done and why.
        hypotheses: Which it is about.
        scale: The scale's name.
        takes: How long it takes, in words.
        seeds: Of the trainings.
        settings: Of all its runs.
        arms: The first is what the hypotheses are about.
    """

    title: str
    about: str
    hypotheses: Question
    scale: str
    takes: str
    seeds: tuple[int, ...] = Field(min_length=1)
    settings: dict[str, Any]
    arms: tuple[Arm, ...]

    @property
    def compares(self) -> bool:
        """Whether arms are compared with each other, with no set found and nothing tracked."""
        return self.hypotheses == PROTECTIONS_COMPARED

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        """Return the seeds that an arm is trained with."""
        return self.seeds[: arm.num_seeds]


def read_experiment(
    path: Path, scale: str | None = None, changes: Iterable[str] = ()
) -> Experiment:
    """Read an experiment file at one scale.

    Args:
        path: The TOML file.
        scale: One of its scales; `small`, else the first, where None.
        changes: Settings that win over the file's, each as `name=value`.

    Raises:
        UserError: The file cannot be read, a key is unknown, or a value is wrong.
    """
    file = _parsed(path, _read_toml(path))
    return _at_scale(path, file, scale, _changes(changes))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = sorted(str(file) for file in Path("experiments").glob("*.toml"))
        raise UserError(f"no experiment file {path}{_there_are(known)}") from error
    except OSError as error:
        raise UserError(f"the experiment file {path} cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid TOML: {error}") from error


def _there_are(names: Iterable[str]) -> str:
    found = ", ".join(names)
    return f"; there are {found}" if found else ""


def _parsed(path: Path, values: Values) -> ExperimentFile:
    _check_keys(path, "", values, ExperimentFile.model_fields)
    for name, table in _tables(values.get("scales")):
        _check_keys(path, f"scales.{name}", table, Scale.model_fields)
        _check_keys(path, f"scales.{name}.settings", table.get("settings"), SETTINGS)
        for arm, own in _tables(table.get("arms")):
            _check_keys(path, f"scales.{name}", {arm: own}, values.get("arms", {}))
            _check_keys(path, f"scales.{name}.arms.{arm}", own, ARM)
    _check_keys(path, "settings", values.get("settings"), SETTINGS)
    for name, table in _tables(values.get("arms")):
        _check_keys(path, f"arms.{name}", table, ARM)
    return _checked(path, ExperimentFile, values)


def _tables(value: object) -> Iterable[tuple[str, dict[str, Any]]]:
    found = value if isinstance(value, dict) else {}
    return [(name, table) for name, table in found.items() if isinstance(table, dict)]


def _check_keys(path: Path, where: str, given: object, known: Iterable[str]) -> None:
    """Raise if a table has a key that is not known; what is no table at all is said elsewhere."""
    for key in given if isinstance(given, dict) else ():
        if key in known:
            continue
        place = f" in [{where}]" if where else ""
        if key in OWN:
            raise UserError(
                f"{path}: {key!r}{place} is for the experiment to say, which runs every arm with "
                "every seed on the set that it finds; leave it out"
            )
        raise UserError(f"{path}: unknown key {key!r}{place}{nearest(key, known)}")


def _changes(texts: Iterable[str]) -> dict[str, Any]:
    """Read `name=value` texts; a value that is no TOML is a text."""
    found = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise UserError(f"--set {text!r} is no setting; write it as name=value")
        if name not in {*SETTINGS, "seeds"}:
            raise UserError(f"--set: unknown setting {name!r}{nearest(name, {*SETTINGS, 'seeds'})}")
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = value
    return found


def _at_scale(
    path: Path, file: ExperimentFile, name: str | None, changes: dict[str, Any]
) -> Experiment:
    chosen = name or (DEFAULT_SCALE if DEFAULT_SCALE in file.scales else next(iter(file.scales)))
    if chosen not in file.scales:
        raise UserError(f"{path} has no scale {chosen!r}; choose one of {', '.join(file.scales)}")
    scale = file.scales[chosen]
    seeds = changes.pop("seeds", scale.seeds or file.seeds)
    arms = []
    for arm, table in file.arms.items():
        own = {**table, **scale.arms.get(arm, {})}
        if "protect" not in own:
            raise UserError(f"{path}: [arms.{arm}] has no key 'protect', which every arm needs")
        own |= {key: value for key, value in changes.items() if key in own}
        kept = {"about": own.pop("about", ""), "num_seeds": own.pop("num_seeds", None)}
        arms.append({"name": arm, **kept, "settings": own})
    values = {
        "title": file.title,
        "about": file.about,
        "hypotheses": file.hypotheses,
        "scale": chosen,
        "takes": scale.takes,
        "seeds": (seeds,) if isinstance(seeds, int) else seeds,
        "settings": {**file.settings, **scale.settings, **changes},
        "arms": arms,
    }
    return _checked(path, Experiment, values)


def _checked(path: Path, kind: type[Kind], values: Values) -> Kind:
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {where}: {first['msg']} (got {first['input']!r})") from error
