"""Reads and checks metrics.json and examples.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from safetypin.artifacts import DamagedArtifactError, UserError
from safetypin.report._examples import Examples
from safetypin.report._metrics import Metrics, Part

METRICS_FILE = "metrics.json"
EXAMPLES_FILE = "examples.json"
COMMANDS = {  # what makes the folder of each kind
    "audit": "safetypin audit MODEL",
    "evaluate": "safetypin evaluate MODEL",
    "tune": "safetypin tune MODEL --data FILE",
    "track": "safetypin track RUN",
    "contrast": "safetypin contrast MODEL --reference MODEL",
    "patch": "safetypin patch MODEL --reference MODEL --neurons DIR",
    "guard": "safetypin guard fit --model MODEL --neurons DIR",
    "chain": "safetypin run FILE",
    "experiment": "safetypin run FILE",
    "sweep": "safetypin run FILE",
}

PartT = TypeVar("PartT", bound=Part)


def parse_metrics(metrics: Mapping[str, Any]) -> Metrics:
    """Check the content of an audit's metrics.json.

    Raises:
        UserError: A key is missing or holds something else than schema 1 says; names the key.
    """
    return parse(Metrics, metrics, METRICS_FILE)


def read_metrics(folder: Path) -> Metrics:
    """Read and check `folder/metrics.json` of an audit.

    Raises:
        UserError: There is none, or it is not of schema 1.
        DamagedArtifactError: It is not JSON.
    """
    return read(folder, "audit", Metrics)


def read(folder: Path, kind: str, form: type[PartT]) -> PartT:
    """Read and check `folder/metrics.json` of a run of that kind.

    Raises:
        UserError: There is none, it is of another kind, or it is not of schema 1.
        DamagedArtifactError: It is not JSON.
    """
    found = kind_of(folder)
    if found != kind:
        raise UserError(
            f"{folder} is a folder of `safetypin {found}`, not of `safetypin {kind}`; "
            "`safetypin report` tells them apart by itself"
        )
    path = folder / METRICS_FILE
    return parse(form, _read_json(path), str(path), kind)


def kind_of(folder: Path) -> str:
    """Return which command made the folder: `audit`, `tune` or `track`.

    Raises:
        UserError: There is no metrics.json, or another program wrote it.
        DamagedArtifactError: It is not JSON.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        if any(folder.glob("*/run.json")):
            raise UserError(
                f"no {METRICS_FILE} in {folder}: its run is not finished, or is of a command that "
                "makes no page; the same command again goes on where it was"
            )
        raise UserError(
            f"no {METRICS_FILE} in {folder}; a report is made from the folder of an audit, a tune "
            f"or a track: run `{COMMANDS['audit']} --out {folder}` first, or tune, or track"
        )
    content = _read_json(path)
    kind = content.get("kind", "audit") if isinstance(content, dict) else "audit"
    if kind not in list(COMMANDS):
        raise UserError(f"{path} is of kind {kind!r}; known are {', '.join(COMMANDS)}")
    return str(kind)


def read_examples(folder: Path) -> Examples | None:
    """Read `folder/examples.json`; None where the run kept no answers."""
    path = folder / EXAMPLES_FILE
    return parse(Examples, _read_json(path), str(path)) if path.is_file() else None


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # bad JSON and bad UTF-8 alike
        raise DamagedArtifactError(
            f"{path} is not whole JSON ({error}); run the same command again into this folder"
        ) from error


def parse(form: type[PartT], content: object, name: str, kind: str = "audit") -> PartT:
    """Check the content of a file.

    Raises:
        UserError: A key is missing or holds something else than schema 1 says; names the key.
    """
    try:
        return form.model_validate(content)
    except ValidationError as error:
        found = error.errors(include_url=False)
        first = "; ".join(_complaint(item) for item in found[:3])
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(
            f"{name}: {first}{more}. This safetypin reads schema 1; run the {kind} again, "
            "or use the version of safetypin that wrote the file"
        ) from None


def _complaint(item: Mapping[str, Any]) -> str:
    where = ".".join(str(step) for step in item["loc"])
    if item["type"] == "missing":
        return f"{where!r} is missing"
    shown = repr(item["input"])
    given = f", got {shown}" if len(shown) < 60 else ""
    place = f"{where!r}: " if where else ""
    return f"{place}{item['msg']}{given}"
