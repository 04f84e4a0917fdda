"""The settings of a command: a preset, a TOML file, options; in that order, the later wins."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from safetypin.artifacts import UserError

Settings = TypeVar("Settings", bound=BaseModel)
Presets = Mapping[str, Mapping[str, Any]]


def join_settings(
    kind: type[Settings],
    presets: Presets,
    *,
    preset: str | None,
    file: Path | None,
    options: Mapping[str, Any],
    required: Mapping[str, str],
    gives_way: Mapping[str, str] | None = None,
    otherwise: Mapping[str, Any] | None = None,
) -> Settings:
    """Join a preset, a TOML file and options (None: not given) into one checked config.

    An empty text takes back what a preset or the file sets, where the setting may be None.

    Args:
        kind: The config, with a field `preset`.
        presets: Values by the preset's name; `standard` is taken where none is named.
        preset: The preset that the options name.
        file: The TOML file.
        options: Values by name.
        required: What must be given, by name, and how to give it.
        gives_way: Values of a preset that another setting takes the place of, by its name.
        otherwise: Values, of `preset` too, where neither the file nor the options have one.

    Raises:
        UserError: A value is wrong or missing or a key unknown, with the nearest names.
    """
    values = {**(otherwise or {}), **(_read_toml(file) if file else {})}
    given = {name: value for name, value in options.items() if value is not None}
    chosen = preset or values.get("preset", "standard")
    if chosen not in list(presets):
        raise UserError(f"unknown preset {chosen!r}; choose one of {', '.join(presets)}")
    own = {**values, **given}
    left = {name for name, other in (gives_way or {}).items() if other in own}
    kept = {name: value for name, value in presets[chosen].items() if name not in left}
    joined = {**kept, **own, "preset": chosen}
    for name, how in required.items():
        if not joined.get(name):
            raise UserError(f"no {name} was given; {how} or as `{name}` in the TOML file")
    for key in joined:
        if key not in kind.model_fields:
            where = f"{file}: " if file else ""
            raise UserError(f"{where}unknown key {key!r}{nearest(key, kind.model_fields)}")
        if joined[key] == "" and kind.model_fields[key].default is None:
            joined[key] = None
    return _checked(kind, joined)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean a or b?`, or nothing where no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def one_or_many(value: object) -> object:
    """Take a single value where a list is meant, as `q = 0.01` in a TOML file."""
    return (value,) if isinstance(value, int | float | str) else value


def check_share(name: str, value: float | int) -> None:
    """Raise unless a value is a share strictly between 0 and 1.

    Raises:
        UserError: It is not; a percentage is shown as the fraction that it is.
    """
    if not 0 < value < 1:
        percent = f"; {value:g} % is {value / 100:g}" if 1 <= value <= 100 else ""
        raise UserError(f"{name} must be between 0 and 1, got {value:g}{percent}")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise unless a value is one of its choices.

    Raises:
        UserError: It is not, with the choices there are.
    """
    if value not in (known := list(choices)):
        raise UserError(
            f"{name} {value!r} is unknown; choose one of {', '.join(known)}{nearest(value, known)}"
        )


def _checked(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(own := first.get("ctx", {}).get("error"), UserError):
            raise own from error  # one of ours: its words need no wrapping
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{where or 'the settings'}: {first['msg']} (got {first['input']!r})"
        ) from error


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no settings file {file}") from error
    except OSError as error:
        raise UserError(f"the settings file {file} cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no valid TOML: {error}") from error
