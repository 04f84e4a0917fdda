"""The folder of a training: its files, and that no other training takes its place."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts import UserError, read_json

MODEL_FOLDER = "model"
UNFINISHED = "model.unfinished"  # what a kill in the middle of saving leaves
LOG_FILE = "log.jsonl"
CHECKPOINTS = "checkpoints"
SETTINGS_FILE = "settings.json"


def check_folder(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Raise if the folder holds what another training made, which would be lost.

    Raises:
        UserError: It does, with what differs.
    """
    made = [path for path in (folder / "run.json", folder / CHECKPOINTS) if path.exists()]
    if not made or not (folder / SETTINGS_FILE).exists():
        return
    found = read_json(folder / SETTINGS_FILE)
    odd = differences(found, json.loads(json.dumps(inputs)))
    if odd and (made[0].name == "run.json" or any(made[0].glob("checkpoint-*"))):
        raise UserError(
            f"{folder} holds what was trained with other settings ({'; '.join(odd)}); choose "
            "another --out, or delete that folder to train anew"
        )


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return `name: a there, b here` for every value in which two settings differ."""
    odd = []
    for key in sorted(found.keys() | wanted.keys()):
        there, here = found.get(key), wanted.get(key)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            odd += differences(there, here, f"{prefix}{key}.")
        elif there != here:
            odd.append(f"{prefix}{key}: {there} there, {here} here")
    return odd
