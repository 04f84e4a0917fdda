"""Save and load artifacts as run folders."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetypin.artifacts._basis import Basis
from safetypin.artifacts._basis_store import BASIS_FILE, describe_basis, read_basis, write_basis
from safetypin.artifacts._errors import DamagedArtifactError, UserError
from safetypin.artifacts._files import PART, disk_errors
from safetypin.artifacts._masks import Members, WeightMask
from safetypin.artifacts._neurons import NeuronScores, NeuronSet
from safetypin.artifacts._ranks import (
    RANKS_FILE,
    RankBasis,
    describe_ranks,
    read_ranks,
    write_ranks,
)
from safetypin.artifacts._run import RunRecord, payload_hashes
from safetypin.artifacts._scores import WeightScores
from safetypin.artifacts._store import (
    NEURON_SCORES_FILE,
    NEURONS_FILE,
    read_mask,
    read_neuron_scores,
    read_neurons,
    read_scores,
    write_mask,
    write_neuron_scores,
    write_neurons,
    write_scores,
)

SCORES_FILE = "scores.safetensors"
MASK_FILE = "mask.safetensors"
Artifact = WeightScores | WeightMask | NeuronScores | NeuronSet | Basis | RankBasis


def save(
    artifact: Artifact,
    folder: str | Path,
    *,
    inputs: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    seconds: float = 0.0,
) -> RunRecord:
    """Save scores, a set, a basis or ranks as a run folder: the payload, then `run.json`.

    Raises:
        UserError: The folder holds something else, or the disk is full.
    """
    folder = Path(folder)
    kind = next(kind for kind in _KINDS if isinstance(artifact, kind.form))
    _check_free(folder, kind.file)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    names = kind.write(folder, artifact)
    record = RunRecord(
        stage=kind.stage,
        inputs={"model_id": artifact.model_id, **(inputs or {})},
        result=kind.result(artifact),
        files=payload_hashes(folder, names),
        seconds=seconds,
        environment=environment or {},
    )
    record.write(folder)
    return record


def _check_free(folder: Path, name: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder")
    # a killed `save` leaves a part of a file: it is no reason to refuse
    others = folder.exists() and [p for p in folder.iterdir() if p.suffix != PART]
    if others and not (folder / name).exists():
        raise UserError(f"{folder} is not empty and holds no {name}; choose another folder")


def load(folder: str | Path) -> Artifact:
    """Load what `save` wrote, after checking its hash.

    Raises:
        DamagedArtifactError: The folder is unfinished, damaged or of another kind.
    """
    folder = Path(folder)
    record = RunRecord.read(folder)
    for kind in _KINDS:
        if kind.file in record.files:
            found: Artifact = kind.read(folder)
            return found
    raise DamagedArtifactError(
        f"{folder} holds neither scores nor a mask, basis or ranks but a {record.stage} run"
    )


def _scores_result(scores: WeightScores) -> dict[str, Any]:
    return {
        "num_matrices": len(scores.tensors),
        "num_examples": scores.num_examples,
        "num_tokens": scores.num_tokens,
        "coverage": scores.coverage,
    }


def _neuron_scores_result(scores: NeuronScores) -> dict[str, Any]:
    return {
        "site": scores.site,
        "num_units": sum(tensor.numel() for tensor in scores.tensors.values()),
        "num_examples": scores.num_examples,
        "num_tokens": scores.num_tokens,
    }


def _mask_result(mask: WeightMask) -> dict[str, Any]:
    return {"num_weights": mask.num_weights, **_members_result(mask)}


def _neurons_result(neurons: NeuronSet) -> dict[str, Any]:
    return {"site": neurons.site, "num_units": neurons.num_units, **_members_result(neurons)}


def _members_result(members: Members) -> dict[str, Any]:
    return {
        "num_selected": members.num_selected,
        "fraction": members.fraction,
        "fingerprint": members.fingerprint,
    }


class _Kind(NamedTuple):
    """How one kind of artifact is kept; `write` returns the names of its files."""

    form: type
    stage: str
    file: str
    write: Callable[[Path, Any], list[str]]
    read: Callable[[Path], Any]
    result: Callable[[Any], dict[str, Any]]


def _of_one_file(
    form: type,
    stage: str,
    file: str,
    write: Callable[[Path, Any], None],
    read: Callable[[Path], Any],
    result: Callable[[Any], dict[str, Any]],
) -> _Kind:
    def write_into(folder: Path, artifact: object) -> list[str]:
        write(folder / file, artifact)
        return [file]

    return _Kind(form, stage, file, write_into, lambda folder: read(folder / file), result)


_KINDS = (
    _of_one_file(WeightScores, "scores", SCORES_FILE, write_scores, read_scores, _scores_result),
    _of_one_file(WeightMask, "mask", MASK_FILE, write_mask, read_mask, _mask_result),
    _of_one_file(
        NeuronScores,
        "neuron-scores",
        NEURON_SCORES_FILE,
        write_neuron_scores,
        read_neuron_scores,
        _neuron_scores_result,
    ),
    _of_one_file(NeuronSet, "neurons", NEURONS_FILE, write_neurons, read_neurons, _neurons_result),
    _of_one_file(RankBasis, "ranks", RANKS_FILE, write_ranks, read_ranks, describe_ranks),
    _Kind(Basis, "basis", BASIS_FILE, write_basis, read_basis, describe_basis),
)
