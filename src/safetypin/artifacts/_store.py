"""Scores and sets as files."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor

from safetypin.artifacts._errors import DamagedArtifactError
from safetypin.artifacts._files import read_tensors, write_tensors
from safetypin.artifacts._masks import Members, WeightMask, packed, unpacked
from safetypin.artifacts._neurons import NeuronScores, NeuronSet
from safetypin.artifacts._scores import WeightScores

NEURON_SCORES_FILE = "neuron-scores.safetensors"
NEURONS_FILE = "neurons.safetensors"

Set = TypeVar("Set", bound=Members)
Artifact = WeightScores | WeightMask | NeuronScores | NeuronSet


class FileTensors(Mapping[str, Tensor]):
    """Tensors of a safetensors file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, framework="pt") as file:
                self._names = list(file.keys())
                self.metadata: dict[str, str] = file.metadata() or {}
        except (FileNotFoundError, SafetensorError, OSError) as error:
            raise DamagedArtifactError(
                f"{path} cannot be read ({error}); delete its folder and run the stage again"
            ) from error

    def reorder(self, names: Sequence[str]) -> None:
        """Give the tensors in another order.

        Raises:
            ValueError: Other names than those of the file.
        """
        if sorted(names) != sorted(self._names):
            raise ValueError("its names are not those of its tensors")
        self._names = list(names)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self._path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write_scores(path: Path, scores: WeightScores) -> None:
    """Write scores to one file, as float32, matrix by matrix: lazy ones are never whole."""
    about = _fields(scores)
    about["transposed"] = sorted(scores.transposed)
    about["names"] = list(scores.tensors)  # their order, which the format does not keep
    write_tensors(path, scores.tensors, {"scores": json.dumps(about)})


def read_scores(path: Path) -> WeightScores:
    """Read scores; each tensor is read from the file when it is asked for.

    Raises:
        DamagedArtifactError: The file is damaged or holds something else.
    """
    tensors = FileTensors(path)
    about = _about(tensors.metadata, "scores", path)
    try:
        tensors.reorder(about.pop("names"))
        about["transposed"] = frozenset(about["transposed"])
        return WeightScores(tensors=tensors, **about)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, error) from error


def write_mask(path: Path, mask: WeightMask) -> None:
    """Write a mask to one file, one bit a weight."""
    _write_members(path, mask, "mask")


def read_mask(path: Path) -> WeightMask:
    """Read a mask.

    Raises:
        DamagedArtifactError: The file is damaged or holds something else.
    """
    return _read_members(path, "mask", WeightMask)


def write_neurons(path: Path, neurons: NeuronSet) -> None:
    """Write a set of units to one file, one bit a unit."""
    _write_members(path, neurons, "neurons")


def read_neurons(path: Path) -> NeuronSet:
    """Read a set of units.

    Raises:
        DamagedArtifactError: The file is damaged or holds something else.
    """
    return _read_members(path, "neurons", NeuronSet)


def write_neuron_scores(path: Path, scores: NeuronScores) -> None:
    """Write scores of units to one file, as float32."""
    about = {**_fields(scores), "names": list(scores.tensors)}
    write_tensors(path, scores.tensors, {"neuron-scores": json.dumps(about)})


def read_neuron_scores(path: Path) -> NeuronScores:
    """Read scores of units.

    Raises:
        DamagedArtifactError: The file is damaged or holds something else.
    """
    tensors, metadata = read_tensors(path)
    about = _about(metadata, "neuron-scores", path)
    try:
        names = about.pop("names")
        return NeuronScores(tensors={name: tensors[name] for name in names}, **about)
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def _fields(artifact: Artifact) -> dict[str, Any]:
    """Return all of an artifact but its tensors."""
    return {
        field.name: getattr(artifact, field.name)
        for field in dataclasses.fields(artifact)
        if field.name != "tensors"
    }


def _write_members(path: Path, members: Members, kind: str) -> None:
    shapes = {name: list(mask.shape) for name, mask in members.tensors.items()}
    about = {**_fields(members), "shapes": shapes}  # type: ignore[arg-type]
    bits = {name: packed(mask) for name, mask in members.tensors.items()}
    write_tensors(path, bits, {kind: json.dumps(about)})


def _read_members(path: Path, kind: str, form: type[Set]) -> Set:
    bits, metadata = read_tensors(path)
    about = _about(metadata, kind, path)
    try:
        shapes = about.pop("shapes")
        tensors = {name: unpacked(bits[name], tuple(shape)) for name, shape in shapes.items()}
        return form(tensors=tensors, **about)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, error) from error


def _about(metadata: Mapping[str, str], kind: str, path: Path) -> dict[str, Any]:
    if kind not in metadata:
        found = ", ".join(metadata) or "nothing that safetypin wrote"
        raise DamagedArtifactError(f"{path} holds no {kind} but {found}")
    try:
        about: dict[str, Any] = json.loads(metadata[kind])
    except json.JSONDecodeError as error:
        raise _damaged(path, error) from error
    return about


def _damaged(path: Path, error: Exception) -> DamagedArtifactError:
    return DamagedArtifactError(
        f"{path} is damaged ({error}); delete its folder and run the stage again"
    )
