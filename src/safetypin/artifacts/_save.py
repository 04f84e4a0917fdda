"""Save and load artifacts as run folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetypin.artifacts._basis import Basis
from safetypin.artifacts._basis_store import BASIS_FILE, describe_basis, read_basis, write_basis
from safetypin.artifacts._errors import DamagedArtifactError, UserError
from safetypin.artifacts._files import PART, disk_errors
from safetypin.artifacts._masks import WeightMask
from safetypin.artifacts._run import RunRecord, payload_hashes
from safetypin.artifacts._scores import WeightScores
from safetypin.artifacts._store import read_mask, read_scores, write_mask, write_scores

SCORES_FILE = "scores.safetensors"
MASK_FILE = "mask.safetensors"


def save(
    artifact: WeightScores | WeightMask | Basis,
    folder: str | Path,
    *,
    inputs: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    seconds: float = 0.0,
) -> RunRecord:
    """Save scores, a mask or a basis as a run folder: the payload, then `run.json`.

    Raises:
        UserError: The folder holds something else, or the disk is full.
    """
    folder = Path(folder)
    stage, name = _kind(artifact)
    _check_free(folder, name)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    names, result = _write(artifact, folder)
    record = RunRecord(
        stage=stage,
        inputs={"model_id": artifact.model_id, **(inputs or {})},
        result=result,
        files=payload_hashes(folder, names),
        seconds=seconds,
        environment=environment or {},
    )
    record.write(folder)
    return record


def _kind(artifact: WeightScores | WeightMask | Basis) -> tuple[str, str]:
    if isinstance(artifact, WeightScores):
        return "scores", SCORES_FILE
    return ("mask", MASK_FILE) if isinstance(artifact, WeightMask) else ("basis", BASIS_FILE)


def _write(
    artifact: WeightScores | WeightMask | Basis, folder: Path
) -> tuple[list[str], dict[str, Any]]:
    if isinstance(artifact, WeightScores):
        write_scores(folder / SCORES_FILE, artifact)
        return [SCORES_FILE], {
            "num_matrices": len(artifact.tensors),
            "num_examples": artifact.num_examples,
            "num_tokens": artifact.num_tokens,
            "coverage": artifact.coverage,
        }
    if isinstance(artifact, WeightMask):
        write_mask(folder / MASK_FILE, artifact)
        return [MASK_FILE], {
            "num_selected": artifact.num_selected,
            "num_weights": artifact.num_weights,
            "fraction": artifact.fraction,
            "fingerprint": artifact.fingerprint,
        }
    return write_basis(folder, artifact), describe_basis(artifact)


def _check_free(folder: Path, name: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder")
    # a killed `save` leaves a part of a file: it is no reason to refuse
    others = folder.exists() and [p for p in folder.iterdir() if p.suffix != PART]
    if others and not (folder / name).exists():
        raise UserError(f"{folder} is not empty and holds no {name}; choose another folder")


def load(folder: str | Path) -> WeightScores | WeightMask | Basis:
    """Load what `save` wrote, after checking its hash.

    Raises:
        DamagedArtifactError: The folder is unfinished, damaged or of another kind.
    """
    folder = Path(folder)
    record = RunRecord.read(folder)
    if SCORES_FILE in record.files:
        return read_scores(folder / SCORES_FILE)
    if MASK_FILE in record.files:
        return read_mask(folder / MASK_FILE)
    if BASIS_FILE in record.files:
        return read_basis(folder)
    raise DamagedArtifactError(
        f"{folder} holds neither scores nor a mask nor a basis but a {record.stage} run"
    )
