"""An experiment that is a chain of commands: each reads what the ones before it have left."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from safetypin.artifacts import UserError, write_json
from safetypin.experiment._file import (
    DEFAULT_SCALE,
    Values,
    _check_keys,
    _checked,
    _read_toml,
    _Table,
    _tables,
)
from safetypin.report import headline, write_report
from safetypin.stages import (
    ContrastConfig,
    GuardConfig,
    PatchConfig,
    Reporter,
    contrast_models,
    environment,
    fit_guard,
    held,
    make_contrast_config,
    make_guard_config,
    make_patch_config,
    nearest,
    now,
    patch_models,
)

Make = Callable[[str | None, dict[str, Any]], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command that can be a step.

    Attributes:
        config: Its settings.
        make: Checks them.
        run: Runs it into a folder.
    """

    config: type[BaseModel]
    make: Make
    run: Callable[..., Mapping[str, Any]]


COMMANDS = {
    "contrast": Command(config=ContrastConfig, make=make_contrast_config, run=contrast_models),
    "patch": Command(config=PatchConfig, make=make_patch_config, run=patch_models),
    "guard": Command(config=GuardConfig, make=make_guard_config, run=fit_guard),
}
STEP = "@"  # before the name of a step: its folder
KNOWN = frozenset(name for command in COMMANDS.values() for name in command.config.model_fields)


class StepsScale(_Table):
    """What one scale changes.

    Attributes:
        takes: How long it takes and on what, in words.
        settings: Of every step that has them.
        steps: Of one step, by its name.
    """

    takes: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = Field(default_factory=dict)


class StepsFile(_Table):
    """A chain of commands as its file says it.

    Attributes:
        title: What it is, in one line.
        about: What is done and why.
        settings: Of every step that has them.
        steps: By name, in order; each has `command` and settings. A value `@name` is the folder of
            an earlier step.
        scales: By name.
    """

    title: str
    about: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = Field(min_length=1)
    scales: dict[str, StepsScale] = Field(min_length=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainStep:
    """One command with its settings."""

    name: str
    command: str
    config: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chain:
    """A chain of commands at one scale, and where it goes."""

    title: str
    about: str
    scale: str
    takes: str
    steps: tuple[ChainStep, ...]
    out: Path


def is_chain(path: Path) -> bool:
    """Whether an experiment file is a chain of commands; a file that cannot be read is none."""
    return path.is_file() and "steps" in _read_toml(path)


def read_chain(path: Path, scale: str | None, changes: Iterable[str], out: Path) -> Chain:
    """Read a chain of commands at one scale.

    Raises:
        UserError: The file cannot be read, a key is unknown, or a value is wrong.
    """
    values = _read_toml(path)
    file = _parsed(path, values)
    chosen = scale or (DEFAULT_SCALE if DEFAULT_SCALE in file.scales else next(iter(file.scales)))
    if chosen not in file.scales:
        raise UserError(f"{path} has no scale {chosen!r}; choose one of {', '.join(file.scales)}")
    given = _changes(changes)
    steps: list[ChainStep] = []
    for name, table in file.steps.items():
        own = {**file.settings, **file.scales[chosen].settings}
        own = own | table | file.scales[chosen].steps.get(name, {}) | given
        command = COMMANDS[table["command"]]
        known = {key: v for key, v in own.items() if key in command.config.model_fields}
        known = {key: _folder(v, out, [s.name for s in steps], path) for key, v in known.items()}
        try:
            config = command.make(known.pop("model", None), known)
        except UserError as error:
            raise UserError(f"step {name!r} of {path}: {error}") from error
        steps.append(ChainStep(name=name, command=table["command"], config=config))
    return Chain(
        title=file.title,
        about=file.about,
        scale=chosen,
        takes=file.scales[chosen].takes,
        steps=tuple(steps),
        out=out,
    )


def _folder(value: object, out: Path, earlier: list[str], path: Path) -> object:
    if not isinstance(value, str) or not value.startswith(STEP):
        return value
    name = value.removeprefix(STEP)
    if name not in earlier:
        raise UserError(
            f"{path}: {value!r} names no earlier step{nearest(name, earlier)}; a step reads what "
            "the ones before it have left"
        )
    return str(out / name)


def _parsed(path: Path, values: Values) -> StepsFile:
    _check_keys(path, "", values, StepsFile.model_fields)
    _check_keys(path, "settings", values.get("settings"), KNOWN)
    for name, table in _tables(values.get("steps")):
        command = table.get("command")
        if command not in COMMANDS:
            raise UserError(
                f"{path}: [steps.{name}] has the command {command!r}; choose one of "
                f"{', '.join(COMMANDS)}"
            )
        known = {"command", *COMMANDS[command].config.model_fields}
        _check_keys(path, f"steps.{name}", table, known)
    for scale, table in _tables(values.get("scales")):
        _check_keys(path, f"scales.{scale}", table, StepsScale.model_fields)
        _check_keys(path, f"scales.{scale}.settings", table.get("settings"), KNOWN)
        for name, own in _tables(table.get("steps")):
            _check_keys(path, f"scales.{scale}", {name: own}, values.get("steps", {}))
            command = COMMANDS[values["steps"][name]["command"]]
            _check_keys(path, f"scales.{scale}.steps.{name}", own, command.config.model_fields)
    return _checked(path, StepsFile, values)


def _changes(texts: Iterable[str]) -> dict[str, Any]:
    import tomllib

    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or name not in KNOWN:
            near = nearest(name, KNOWN)
            raise UserError(f"--set {text!r} is no setting; write it as name=value{near}")
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = value
    return found


def run_chain(chain: Chain, *, make_reporter: Callable[[Path], Reporter]) -> dict[str, Any]:
    """Run every step, then write metrics.json and the page; what is done is not run again.

    Raises:
        UserError: Bad input, as the commands say.
    """
    started, reporter = now(), make_reporter(chain.out)
    rows = []
    with held(chain.out):
        for place, step in enumerate(chain.steps, start=1):
            reporter.note(f"[{place}/{len(chain.steps)}] {step.name}")
            folder = chain.out / step.name
            COMMANDS[step.command].run(step.config, folder, reporter=make_reporter(folder))
            answer, sentence = headline(folder)
            report = f"{step.name}/report.html"
            rows.append({
                "name": step.name, "command": step.command, "answer": answer,
                "sentence": sentence, "report": report,
            })  # fmt: skip
        found = {
            "schema": 1,
            "kind": "chain",
            "safetypin": version("safetypin"),
            "title": chain.title,
            "about": chain.about,
            "scale": chain.scale,
            "settings": {"takes": chain.takes or "not measured"},
            "prompts": {},
            "steps": rows,
            "run": {"started": started, "finished": now(), "seconds": _seconds(started)}
            | environment(),
        }
        write_json(chain.out / "metrics.json", found)
        write_report(chain.out)
        reporter.event("finished")
    return found


def _seconds(started: str) -> float:
    import datetime

    begun, ended = (datetime.datetime.fromisoformat(text) for text in (started, now()))
    return (ended - begun).total_seconds()
