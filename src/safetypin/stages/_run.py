"""Run a stage once: skip it where it is done, go on where it was killed."""

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout

from safetypin.artifacts import (
    PART,
    DamagedArtifactError,
    RunRecord,
    UserError,
    disk_errors,
    inputs_hash,
    payload_hashes,
    read_json,
    write_json,
)
from safetypin.stages._progress import EVENTS_FILE, Reporter

LOCK_FILE = ".lock"
HOLDER_FILE = ".holder.json"
PARTIAL_FILE = ".inputs"
# what holding a run folder leaves in it before a stage has written anything
OWN_FILES = frozenset({LOCK_FILE, HOLDER_FILE, EVENTS_FILE})
# what the jobs and the shards of a sweep may leave in it before that
SHARED_FOLDERS = frozenset({"slurm", "shards"})
CELLS = "cells"  # here other processes write while one holds the run folder


class Output(NamedTuple):
    """What a stage made: small results as JSON values, and the names of its payload files.

    Where it is not final, as a judge could not be reached, the same command does it again, with
    the answers that its folder holds.
    """

    result: Mapping[str, Any]
    files: list[str]
    is_final: bool = True


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def command_line() -> str:
    """Return the command that runs, as a person would type it."""
    import shlex

    program = Path(sys.argv[0]).name
    return shlex.join(["safetypin" if program in ("__main__.py", "-c") else program, *sys.argv[1:]])


def environment() -> dict[str, Any]:
    """Return versions, machine and command, for the record."""
    packages = ("safetypin", "torch", "transformers", "peft", "numpy")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        **versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "num_threads": torch.get_num_threads(),
        "commit": _commit(),
        "command": command_line(),
        "finished": now(),
    }


def _commit() -> str | None:
    """Return the commit of the source tree that runs, or None outside of one."""
    source = Path(__file__).parents[3]
    if not (source / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(source), "rev-parse", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process alone; a killed process holds nothing.

    A folder that was made for the block, which then failed to put anything into it, is removed.

    Raises:
        UserError: Another process holds it, with who that is; the folder cannot be made; or it
            holds files of something else.
    """
    _check_free(folder)
    made = not folder.exists()
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / LOCK_FILE)
            lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"{folder} is in use {_holder(folder)}; wait for it, or choose another --out"
        ) from error
    except FileExistsError as error:
        raise UserError(f"{folder} is a file; --out takes a folder") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be used as a run folder: {error}") from error
    try:
        _remove_parts(folder, but=CELLS)
        who = {"process": os.getpid(), "host": socket.gethostname(), "since": now()}
        write_json(folder / HOLDER_FILE, {**who, "command": command_line()})
        yield
    except BaseException:
        if made:
            _remove_unused(folder)
        raise
    finally:
        (folder / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def _check_free(folder: Path) -> None:
    if not folder.is_dir() or not (found := sorted(path.name for path in folder.iterdir())):
        return
    if OWN_FILES.intersection(found) or SHARED_FOLDERS.issuperset(found):
        return
    if not any(folder.glob("*/run.json")):
        raise UserError(
            f"{folder} is not empty and no run folder of safetypin (it holds {found[0]!r}); "
            "choose another --out"
        )


def _remove_parts(folder: Path, *, but: str = "") -> None:
    """Remove what a killed run was about to write, save in one folder of `folder`."""
    for place, folders, files in os.walk(folder):
        if Path(place) == folder:
            folders[:] = [name for name in folders if name != but]
        for name in (*folders, *files):
            if not (name.startswith(".") and name.endswith(PART)):
                continue
            part = Path(place) / name
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)


def _remove_unused(folder: Path) -> None:
    """Remove a run folder that holds nothing but the marks of being held."""
    if {path.name for path in folder.iterdir()} <= OWN_FILES:
        for name in OWN_FILES:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _holder(folder: Path) -> str:
    try:
        who = read_json(folder / HOLDER_FILE)
        return (
            f"by process {who['process']} on {who['host']} since {who['since']} ({who['command']})"
        )
    except (DamagedArtifactError, KeyError):
        return "by another process"


def run_stage(
    folder: Path,
    stage: str,
    inputs: Mapping[str, Any],
    compute: Callable[[Path], Output],
    *,
    reporter: Reporter,
) -> tuple[RunRecord, bool]:
    """Return the record of a stage, computed only where it is not done already.

    A finished folder with the same inputs is verified and kept. An unfinished one with the same
    inputs is handed to `compute` with the partial files that it holds. Anything else is cleared.

    Returns:
        The record, and whether it was there already.

    Raises:
        DamagedArtifactError: A finished folder was changed since.
    """
    inputs = json.loads(json.dumps(inputs))
    shutil.rmtree(_discarded(folder), ignore_errors=True)
    if (folder / "run.json").exists() and not (folder / PARTIAL_FILE).exists():
        record = RunRecord.read(folder)
        if record.stage == stage and record.inputs == inputs:
            reporter.kept(stage)
            reporter.detail(f"{folder}: done before with the same inputs, kept")
            return record, True
    _remove_parts(folder)
    wanted = inputs_hash({"stage": stage, **inputs})
    partial = folder / PARTIAL_FILE
    if not partial.exists() or partial.read_text() != wanted:
        clear(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").unlink(missing_ok=True)
        partial.write_text(wanted)
    start = time.monotonic()
    try:
        output = compute(folder)
    except BaseException:
        if [path.name for path in folder.iterdir()] == [PARTIAL_FILE]:
            discard(folder)
        raise
    record = RunRecord(
        stage=stage,
        inputs=inputs,
        result=json.loads(json.dumps(output.result, allow_nan=False)),
        files=payload_hashes(folder, output.files),
        seconds=round(time.monotonic() - start, 3),
        environment=environment(),
    )
    record.write(folder)
    if output.is_final:
        partial.unlink(missing_ok=True)
    else:
        reporter.note(f"{stage}: the judge could not be reached for some answers; run it again")
    reporter.detail(f"{folder}: done in {record.seconds:.1f} s")
    return record, False


def is_unfinished(folder: Path) -> bool:
    """Whether a stage of a run with a metrics.json waits for a judge that was out of reach."""
    stages = read_json(folder / "metrics.json")["run"]["stages"]
    return any((folder / stage["name"] / PARTIAL_FILE).exists() for stage in stages)


def clear(folder: Path) -> None:
    """Remove what an earlier run with other inputs left in a stage's own folder.

    Raises:
        UserError: The folder holds something that no stage wrote.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not ((folder / "run.json").exists() or (folder / PARTIAL_FILE).exists()):
        raise UserError(f"{folder} is not empty and no run of safetypin; choose another --out")
    discard(folder)


def discard(folder: Path) -> None:
    """Remove a stage's folder, if there is one, so that a kill never leaves half of it."""
    trash = _discarded(folder)
    shutil.rmtree(trash, ignore_errors=True)
    if folder.exists():
        folder.rename(trash)
        shutil.rmtree(trash)


def _discarded(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.discarded")
