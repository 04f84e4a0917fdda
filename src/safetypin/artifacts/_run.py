"""What ran, on what, with which result."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts._errors import DamagedArtifactError
from safetypin.artifacts._files import RUN_FILE, check_payload, file_hash, read_json, write_json

SCHEMA = 2


def inputs_hash(inputs: Mapping[str, Any]) -> str:
    """Return 16 hex digits that change with any input of a stage."""
    text = json.dumps(inputs, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The record of one finished stage, written last into its folder.

    Attributes:
        stage: The stage's name.
        inputs: All that the result depends on: model id, prompt fingerprints, options.
        result: The stage's small results, as JSON values.
        files: SHA-256 of every payload file by its name.
        seconds: Wall-clock time of the stage.
        environment: Versions, machine, command.
    """

    stage: str
    inputs: Mapping[str, Any]
    result: Mapping[str, Any]
    files: Mapping[str, str]
    seconds: float
    environment: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write `run.json`: from here on the folder counts as whole."""
        data = {"schema": SCHEMA, **dataclasses.asdict(self)}
        write_json(folder / RUN_FILE, {**data, "sha256": _record_hash(data)})

    @classmethod
    def read(cls, folder: Path) -> "RunRecord":
        """Read and verify a run folder.

        Raises:
            DamagedArtifactError: The folder is unfinished, or a file of it changed.
        """
        if not (folder / RUN_FILE).exists():
            raise DamagedArtifactError(
                f"{folder} is no finished run (it has no {RUN_FILE}); run the stage that makes it"
            )
        data = read_json(folder / RUN_FILE)
        try:
            if data.pop("schema") != SCHEMA:
                raise DamagedArtifactError(
                    f"{folder} was written by another version of safetypin, in another form; "
                    "delete it and run the stage again"
                )
            expected = data.pop("sha256")
            record = cls(**data)
            if _record_hash({"schema": SCHEMA, **data}) != expected:
                raise DamagedArtifactError(
                    f"{folder / RUN_FILE} changed since it was written (its own SHA-256 is "
                    f"another); delete {folder} and run the stage again"
                )
            check_payload(folder, record.files)
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedArtifactError(
                f"{folder / RUN_FILE} is damaged: {error}; delete the folder and run it again"
            ) from error
        return record


def _record_hash(data: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hex, of the JSON text of a record with its keys sorted."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def payload_hashes(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the SHA-256 of each named file in the folder."""
    return {name: file_hash(folder / name) for name in sorted(names)}
