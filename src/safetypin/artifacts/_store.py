"""Scores and sets as files."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from safetypin.artifacts._errors import DamagedArtifactError
from safetypin.artifacts._files import read_tensors, write_tensors
from safetypin.artifacts._masks import WeightMask, packed, unpacked
from safetypin.artifacts._scores import WeightScores


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
    about = {
        field.name: getattr(scores, field.name)
        for field in dataclasses.fields(scores)
        if field.name != "tensors"
    }
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
    shapes = {name: list(members.shape) for name, members in mask.tensors.items()}
    about = {"model_id": mask.model_id, "space": mask.space, "shapes": shapes}
    bits = {name: packed(members) for name, members in mask.tensors.items()}
    write_tensors(path, bits, {"mask": json.dumps(about)})


def read_mask(path: Path) -> WeightMask:
    """Read a mask.

    Raises:
        DamagedArtifactError: The file is damaged or holds something else.
    """
    bits, metadata = read_tensors(path)
    about = _about(metadata, "mask", path)
    try:
        shapes = about.pop("shapes")
        tensors = {name: unpacked(bits[name], tuple(shape)) for name, shape in shapes.items()}
        return WeightMask(tensors=tensors, **about)
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
