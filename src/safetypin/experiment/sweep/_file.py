"""The TOML file of a sweep: methods with their sizes, what is measured, and the scales."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from safetypin.artifacts import UserError
from safetypin.audit import AuditConfig
from safetypin.evaluate import ATTACKS, check_judge
from safetypin.experiment._file import (
    DEFAULT_SCALE,
    Values,
    _check_keys,
    _checked,
    _read_toml,
    _Table,
    _tables,
)
from safetypin.experiment.sweep._cells import Cell
from safetypin.experiment.sweep.methods import Method, Random, read_method
from safetypin.stages import nearest, one_or_many

# what an audit says of the model, its prompts, its answers and its scores
SHARED = frozenset({
    "model", "dtype", "device", "plain", "system", "seed", "safety", "utility", "attack",
    "harmless", "borderline", "text", "prompt_column", "allow_shared_prompts", "num_safety",
    "num_utility", "num_attack", "num_harmless", "num_borderline", "num_text", "max_new_tokens",
    "batch_size", "window", "judge", "judge_options", "counted", "reduction", "score_batch_size",
    "targets", "overlap_fraction", "max_degenerate", "keep_scores",
})  # fmt: skip


class Measures(BaseModel):
    """What a sweep measures of every cell beside what an audit does.

    Attributes:
        reference: A second model, whose values may be put in and whose weights compared.
        attacks: Names from `ATTACKS` beside the bare request.
        num_attacked: Prompts of each attack, the first of `attack`.
        suffixes: A file of adversarial suffixes, one a line.
        num_samples: Answers of the attack `decoding`.
        temperature: Of those.
        prefill: How the attack `prefill` begins the answer; its own beginning where None.
        also_judges: Judges that judge the same answers again, as `--judge` takes them, without
            options.
        overlap_ranks: Share of the ranks of each matrix whose safety and utility directions are
            compared.
        zero_shot: Tasks of multiple choice.
        num_zero_shot: Questions of each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str | None = None
    attacks: tuple[str, ...] = ()
    num_attacked: int = Field(default=100, ge=1)
    suffixes: str | None = None
    num_samples: int = Field(default=5, ge=2)
    temperature: float = Field(default=1.0, gt=0)
    prefill: str | None = None
    also_judges: tuple[str, ...] = ("papers",)
    overlap_ranks: float = Field(default=0.1, gt=0, lt=1)
    zero_shot: tuple[str, ...] = ()
    num_zero_shot: int = Field(default=100, ge=1)

    _many = field_validator("attacks", "also_judges", "zero_shot", mode="before")(one_or_many)

    @field_validator("also_judges")
    @classmethod
    def _judges(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            check_judge(value)
        return values

    @field_validator("attacks")
    @classmethod
    def _attacks(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if value not in ATTACKS:
                raise UserError(
                    f"attacks: {value!r} is unknown{nearest(value, ATTACKS)}; "
                    f"all: {', '.join(ATTACKS)}"
                )
        if "vanilla" in values:
            raise UserError("attacks: the bare request, `vanilla`, is always measured")
        return values


SETTINGS = SHARED | set(Measures.model_fields)


class SweepScale(_Table):
    """What one scale changes.

    Attributes:
        takes: How long it takes and on what, in words.
        settings: Beside those of the file.
        methods: What it changes of a method, by the method's name.
        leave_out: Methods that it does not run.
    """

    takes: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)
    leave_out: tuple[str, ...] = ()


class SweepFile(_Table):
    """A sweep as its file says it.

    Attributes:
        title: What it is, in one line.
        about: What is done and why.
        settings: Of the model, the prompts, the answers and the scores.
        methods: By name, in order.
        scales: By name.
    """

    title: str
    about: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = Field(min_length=1)
    scales: dict[str, SweepScale] = Field(min_length=1)


class Sweep(BaseModel):
    """A sweep at one scale: what is run.

    Attributes:
        title: What it is, in one line.
        about: What is done and why.
        scale: The scale's name.
        takes: How long it takes, in words.
        config: The model, its prompts, its answers and its scores.
        measures: What is measured besides.
        methods: By name, in order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    title: str
    about: str
    scale: str
    takes: str
    config: AuditConfig
    measures: Measures
    methods: dict[str, Any]

    @property
    def cells(self) -> list[Cell]:
        """All cells, those of a control after those of its method."""
        found: list[Cell] = []
        for name, method in self.methods.items():
            if isinstance(method, Random):
                found += _random_cells(name, method, self.methods[method.like])
            else:
                found += [Cell(method=name, size=size) for size in method.sizes]
        return found

    def cell(self, method: str, size: str) -> Cell:
        """Return the cell of a method at a size."""
        return Cell(method=method, size=size)

    def of(self, cell: Cell) -> Method:
        """Return the method of a cell, for a random one that which it is drawn like."""
        method = self.methods[cell.method]
        like = self.methods[method.like] if isinstance(method, Random) else method
        assert isinstance(like, Method)
        return like


def _random_cells(name: str, method: Random, like: Method) -> list[Cell]:
    return [
        Cell(
            method=name,
            size=size,
            seed=seed,
            like=Cell(method=method.like, size=size).id,
        )
        for size in like.sizes
        if not method.only or size in method.only
        for seed in range(method.num_seeds)
    ]


def is_sweep(path: Path) -> bool:
    """Whether an experiment file is a sweep; a file that cannot be read is none."""
    return path.is_file() and "methods" in _read_toml(path)


def read_sweep(path: Path, scale: str | None = None, changes: Iterable[str] = ()) -> Sweep:
    """Read a sweep at one scale.

    Args:
        path: The TOML file.
        scale: One of its scales; `small`, else the first, where None.
        changes: Settings that win over the file's, each as `name=value`.

    Raises:
        UserError: The file cannot be read, a key is unknown, or a value is wrong.
    """
    file = _parsed(path, _read_toml(path))
    name = scale or (DEFAULT_SCALE if DEFAULT_SCALE in file.scales else next(iter(file.scales)))
    if name not in file.scales:
        raise UserError(f"{path} has no scale {name!r}; choose one of {', '.join(file.scales)}")
    chosen = file.scales[name]
    settings = {**file.settings, **chosen.settings, **_changes(changes)}
    measures = {key: value for key, value in settings.items() if key not in SHARED}
    shared = {key: value for key, value in settings.items() if key in SHARED}
    if "model" not in shared:
        raise UserError(f"{path}: no model; name one as `model` in [settings]")
    methods = {
        key: _method(path, key, {**table, **chosen.methods.get(key, {})})
        for key, table in file.methods.items()
        if key not in chosen.leave_out
    }
    _check_likes(path, methods)
    return Sweep(
        title=file.title,
        about=file.about,
        scale=name,
        takes=chosen.takes,
        config=_checked(path, AuditConfig, shared),
        measures=_checked(path, Measures, measures),
        methods=methods,
    )


def _parsed(path: Path, values: Values) -> SweepFile:
    _check_keys(path, "", values, SweepFile.model_fields)
    _check_keys(path, "settings", values.get("settings"), SETTINGS)
    known = values.get("methods", {})
    for name, table in _tables(values.get("scales")):
        _check_keys(path, f"scales.{name}", table, SweepScale.model_fields)
        _check_keys(path, f"scales.{name}.settings", table.get("settings"), SETTINGS)
        for method, _ in _tables(table.get("methods")):
            _check_keys(path, f"scales.{name}", {method: {}}, known)
        left_out = table.get("leave_out", ())
        _check_keys(path, f"scales.{name}", dict.fromkeys(left_out), known)
    return _checked(path, SweepFile, values)


def _method(path: Path, name: str, table: Mapping[str, Any]) -> Method:
    try:
        return read_method(name, table)
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(own := first.get("ctx", {}).get("error"), UserError):
            raise UserError(f"{path}: [methods.{name}]: {own}") from error
        where = ".".join(str(part) for part in first["loc"])
        given = "" if first["type"] == "missing" else f" (got {first['input']!r})"
        raise UserError(f"{path}: [methods.{name}] {where}: {first['msg']}{given}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _check_likes(path: Path, methods: Mapping[str, Method]) -> None:
    for name, method in methods.items():
        if not isinstance(method, Random):
            continue
        others = [key for key, other in methods.items() if not isinstance(other, Random)]
        if method.like not in others:
            raise UserError(
                f"{path}: [methods.{name}] is like {method.like!r}, which is no method that runs"
                f"{nearest(method.like, others)}"
            )
        if method.match == "magnitude" and methods[method.like].scorer is None:
            raise UserError(
                f"{path}: [methods.{name}] has match = 'magnitude', which is for weights; "
                f"{method.like} removes no single ones, so leave it out"
            )
        sizes = methods[method.like].sizes
        if odd := [size for size in method.only if size not in sizes]:
            raise UserError(
                f"{path}: [methods.{name}] asks for the size {odd[0]!r}; {method.like} has "
                f"{', '.join(sizes)}"
            )


def _changes(texts: Iterable[str]) -> dict[str, Any]:
    """Read `name=value` texts; a value that is no TOML is a text."""
    found = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise UserError(f"--set {text!r} is no setting; write it as name=value")
        if name not in SETTINGS:
            raise UserError(f"--set: unknown setting {name!r}{nearest(name, SETTINGS)}")
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = value
    return found
