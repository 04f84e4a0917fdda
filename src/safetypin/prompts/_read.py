"""Rows of prompt files and of data sets on the Hub."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts import UserError

Row = Mapping[str, Any]
# as UTF-8, with or without the mark that spreadsheets put before it
ENCODING = "utf-8-sig"


def read_file(path: Path) -> list[Row]:
    """Read a prompt file by its ending, one of `READERS`.

    Raises:
        UserError: There is no such file, or it cannot be read.
    """
    if path.suffix not in READERS:
        raise UserError(f"{path} has an unknown ending; known are {' '.join(READERS)}")
    try:
        return READERS[path.suffix](path)
    except FileNotFoundError as error:
        raise UserError(
            f"no prompt file {str(path)!r} in {Path.cwd()}; give the path of one "
            f"({' '.join(READERS)}), the name of a source, or a Hub id"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 ({error}); save it as UTF-8") from error
    except (csv.Error, OSError, ValueError) as error:
        raise UserError(f"{path} is no readable {path.suffix} file: {error}") from error


def read_suffixes(path: Path) -> tuple[str, ...]:
    """Read adversarial suffixes, one a line; empty lines are left out, as is space around one.

    Raises:
        UserError: There is no such file, it is not in UTF-8, it holds no suffix or one twice.
    """
    try:
        lines = _lines(path)
    except FileNotFoundError as error:
        raise UserError(f"no suffix file {str(path)!r} in {Path.cwd()}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} is no readable suffix file: {error}") from error
    if any("\0" in line for line in lines):  # UTF-16 without its mark reads as UTF-8
        raise UserError(f"{path} is not in UTF-8 (it holds null characters); save it as UTF-8")
    suffixes = [line.strip() for line in lines if line.strip()]
    if not suffixes:
        raise UserError(f"{path} holds no suffix; write one a line, or find some: safetypin gcg")
    for place, suffix in enumerate(suffixes):
        if suffix in suffixes[:place]:
            raise UserError(f"{path} holds the suffix {suffix!r} twice; remove one of them")
    return tuple(suffixes)


def _lines(path: Path) -> list[str]:
    # not `splitlines`: it also cuts at characters that JSON allows inside a text, such as U+2028
    return path.read_text(encoding=ENCODING).split("\n")


def _read_jsonl(path: Path) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}: {error.msg} (column {error.colno})") from error
        if not isinstance(row, dict | str):
            raise ValueError(f"line {number} is a {type(row).__name__}, not an object or a text")
        rows.append(row if isinstance(row, dict) else {"prompt": row})
    return rows


def _read_csv(path: Path) -> list[Row]:
    with path.open(encoding=ENCODING, newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows: list[Row] = []
        for row in reader:
            if None in row:  # the rest of a text would be lost without a word
                raise ValueError(
                    f"line {reader.line_num} has more cells than the header; "
                    "a text with commas must be in quotes"
                )
            rows.append(row)
    return rows


def _read_text(path: Path) -> list[Row]:
    return [{"prompt": line.strip()} for line in _lines(path) if line.strip()]


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".txt": _read_text,
    ".parquet": _read_parquet,
}


def hub_rows(
    name: str, *, config: str | None = None, revision: str | None = None, split: str = "train"
) -> list[Row]:
    """Read a data set from the Hub, or from the local cache of `datasets`.

    Raises:
        UserError: It cannot be had.
    """
    import datasets

    try:
        table = datasets.load_dataset(name, config, revision=revision, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"the data set {name!r} could not be loaded from the Hub ({reason}); "
            "check the name and the network, or give a file"
        ) from error
    return [dict(row) for row in table]
