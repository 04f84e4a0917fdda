"""The only module that opens artifact files: atomic, hashed, `run.json` last.

A run folder holds payload files and `run.json`. Payloads are written to a temporary name and
renamed; `run.json` comes last, so a folder with one is whole. safetensors reads a flipped bit
without a word, so every payload is hashed and the hash is checked on reading.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safetypin.artifacts._errors import DamagedArtifactError, UserError

RUN_FILE = "run.json"
PART = ".part"  # ending of what a killed process did not finish

# as safetensors calls them
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ENTRY = 200  # most characters of a tensor's entry in the header, but for its name


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path; rename it to `path` if the block ends well, else remove it.

    Raises:
        UserError: The disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        with disk_errors(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk into words."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors gives the number in its text alone: "I/O error: ... (os error 28)"
        told = re.search(r"os error (\d+)", str(error))
        number = int(told[1]) if told else getattr(error, "errno", None)
        if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise UserError(
                f"the disk is full: {path} could not be written. Nothing half-written was left; "
                "free some space or choose another --out, then run the same command again"
            ) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically; NaN and infinity are errors, as JSON has none."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON is any of its types
    """Read a JSON file.

    Raises:
        DamagedArtifactError: It is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DamagedArtifactError(
            f"{path} is missing; was the run that makes it ended?"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedArtifactError(
            f"{path} is damaged ({error}); delete its folder and run the stage again"
        ) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, each tensor asked for once and let go when written.

    safetensors' own writer needs all tensors at once. Here the header is written last, into room
    that was left for it.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    room = len(json.dumps(header)) + sum(_ENTRY + len(json.dumps(name)) for name in tensors)
    room += -room % 8  # so that the first tensor begins at a multiple of 8
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.seek(8 + room)
        end = 0
        for name in tensors:
            tensor = tensors[name].detach().cpu().contiguous()
            start, end = end, end + tensor.nbytes
            header[name] = {
                "dtype": _DTYPES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        text = json.dumps(header).encode()
        assert len(text) <= room, "the header does not fit into its room"
        file.seek(0)
        file.write(room.to_bytes(8, "little") + text.ljust(room))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file, memory-mapped, and its metadata.

    Raises:
        DamagedArtifactError: It is missing or cut short.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (FileNotFoundError, SafetensorError, OSError) as error:
        raise DamagedArtifactError(
            f"{path} cannot be read ({error}); delete its folder and run the stage again"
        ) from error


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hex.

    Raises:
        DamagedArtifactError: It is missing.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise DamagedArtifactError(
            f"{path} is missing; delete its folder and run the stage again"
        ) from error


def check_payload(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise unless every payload file is what it was when the run ended.

    Raises:
        DamagedArtifactError: A file is missing or changed.
    """
    for name, expected in hashes.items():
        if file_hash(folder / name) != expected:
            raise DamagedArtifactError(
                f"{folder / name} changed since it was written (its SHA-256 is not the one in "
                f"{RUN_FILE}); delete {folder} and run the stage again"
            )


def append_line(path: Path, value: object) -> None:
    """Append one JSON line and flush it to the disk; a full disk leaves no half line."""
    line = json.dumps(value, ensure_ascii=False) + "\n"
    size = path.stat().st_size if path.exists() else 0
    with disk_errors(path):
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if path.exists():
                os.truncate(path, size)
            raise


def read_lines(path: Path) -> list[Any]:
    """Read JSON lines; a last line that a crash cut short is dropped from the file too."""
    if not path.exists():
        return []
    whole, values = 0, []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if not line.endswith(b"\n"):
                break
            values.append(json.loads(line))
        except (json.JSONDecodeError, UnicodeDecodeError):
            break
        whole += len(line)
    if whole != path.stat().st_size:
        with path.open("r+b") as file:
            file.truncate(whole)
    return values
