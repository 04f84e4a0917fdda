"""Checkpoints of a training run, of which only whole ones are ever seen or used.

A checkpoint is written into a folder of another name, recorded in its `run.json` with the hash of
every file, and renamed when it is whole. So what a kill cut off is no checkpoint, and what was
damaged since is known by its hash.
"""

import contextlib
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts import (
    DamagedArtifactError,
    RunRecord,
    UserError,
    disk_errors,
    payload_hashes,
    read_json,
    write_json,
)
from safetypin.intervene._disk import writing

log = logging.getLogger(__name__)

SAVING = ".saving"
PART = ".part"  # ending of a file that a kill left unfinished
SETTINGS_FILE = "settings.json"


class Checkpoints:
    """The checkpoints of one run, in a folder of their own."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Take the folder of a new run, or that of an earlier call with the same settings.

        Raises:
            UserError: It holds the checkpoints of another run.
        """
        self.folder = folder
        path = folder / SETTINGS_FILE
        if path.exists():
            _check_same(folder, read_json(path), settings)
        elif folder.is_dir() and any(path.suffix != PART for path in folder.iterdir()):
            raise UserError(f"{folder} holds files, but no run of safetypin; choose another folder")
        else:
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            write_json(path, settings)

    @property
    def scratch(self) -> Path:
        """Where a checkpoint is until it is whole."""
        return self.folder / SAVING

    def newest(self) -> Path | None:
        """Return the newest whole checkpoint, and say which newer ones are left out.

        What a kill in the middle of a save left behind is removed.
        """
        for rest in sorted(self.scratch.glob("*")):
            log.warning(
                "%s was being saved when the run was stopped; it is not whole and is left out",
                rest.name,
            )
        shutil.rmtree(self.scratch, ignore_errors=True)
        for path in reversed(self.all()):
            try:
                RunRecord.read(path)
            except DamagedArtifactError as error:
                log.warning("the checkpoint %s is left out: %s", path, error)
            else:
                return path
        return None

    def all(self) -> list[Path]:
        """Return the checkpoints, oldest first, whole or damaged."""
        return sorted(self.folder.glob("checkpoint-*"), key=step_of)

    @contextlib.contextmanager
    def saving(self, step: int) -> Iterator[Path]:
        """Give a folder in which to make `checkpoint-STEP`; it is in its place after the block.

        Raises:
            UserError: The disk is full; nothing half-written is left.
        """
        target = self.folder / f"checkpoint-{step}"
        try:
            with writing(target):
                self.scratch.mkdir(exist_ok=True)
                yield self.scratch
                made = self.scratch / target.name
                _record(made, step)
                # there is one only if it was damaged, so that its step is done again
                shutil.rmtree(target, ignore_errors=True)
                made.rename(target)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def keep_only(self, step: int) -> None:
        """Remove all checkpoints but one."""
        for path in self.all():
            if step_of(path) != step:
                shutil.rmtree(path)


def step_of(path: Path) -> int:
    """Return the step that a checkpoint's folder is named after."""
    found = re.search(r"(\d+)$", path.name)
    return int(found[1]) if found else -1


def _record(folder: Path, step: int) -> None:
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    RunRecord(
        stage="checkpoint",
        inputs={},
        result={"step": step},
        files=payload_hashes(folder, names),
        seconds=0.0,
        environment={},
    ).write(folder)


def _check_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    odd = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if odd:
        first, *others = odd
        also = f", and {', '.join(others)}" if others else ""
        raise UserError(
            f"{folder} holds checkpoints of a run with other settings: {first} was "
            f"{found.get(first)}, now it is {wanted.get(first)}{also}; choose another folder, or "
            "remove this one to start anew"
        )
