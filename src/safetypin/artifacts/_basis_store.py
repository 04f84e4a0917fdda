"""Bases as files: a file of directions for each block of layers, and what they are in JSON."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from safetypin.artifacts._basis import Basis, tensor_hash
from safetypin.artifacts._errors import DamagedArtifactError
from safetypin.artifacts._files import read_json, write_json, write_tensors
from safetypin.artifacts._store import FileTensors

BASIS_FILE = "basis.json"
WHOLE_FILE = "directions.safetensors"
DIRECTIONS, SPECTRUM = "directions ", "spectrum "  # before the site in a tensor's name
LARGE = ("directions", "spectra")


class _Joined(Mapping[str, Tensor]):
    """Tensors of one kind from several files, each read when it is asked for."""

    def __init__(self, files: Sequence[FileTensors], prefix: str) -> None:
        self._prefix = prefix
        self._files = {
            name.removeprefix(prefix): file
            for file in files
            for name in file
            if name.startswith(prefix)
        }

    def __getitem__(self, site: str) -> Tensor:
        return self._files[site][self._prefix + site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def write_directions(
    path: Path,
    directions: Mapping[str, Tensor],
    spectra: Mapping[str, Tensor],
    about: Mapping[str, Any],
) -> None:
    """Write the directions of some sites to one file; `about` are JSON values to keep beside."""
    tensors = {DIRECTIONS + site: tensor for site, tensor in directions.items()}
    tensors |= {SPECTRUM + site: tensor for site, tensor in spectra.items()}
    hashes = {site: tensor_hash(tensor) for site, tensor in directions.items()}
    write_tensors(path, tensors, {"directions": json.dumps({**about, "hashes": hashes})})


def read_directions(path: Path) -> dict[str, Any]:
    """Return what was kept beside the directions of a file, the hash of each site among it.

    Raises:
        DamagedArtifactError: The file is damaged or holds something else.
    """
    try:
        about: dict[str, Any] = json.loads(FileTensors(path).metadata["directions"])
    except (KeyError, json.JSONDecodeError) as error:
        raise DamagedArtifactError(
            f"{path} holds no directions ({error}); delete its folder and run the stage again"
        ) from error
    return about


def write_basis(folder: Path, basis: Basis) -> list[str]:
    """Write a basis into a folder; return the names of its files."""
    files = [WHOLE_FILE] if basis.directions else []
    if files:
        write_directions(folder / WHOLE_FILE, basis.directions, basis.spectra, {})
    write_about(folder, basis, files)
    return [*files, BASIS_FILE]


def write_about(folder: Path, basis: Basis, files: Sequence[str]) -> None:
    """Write all of a basis but its directions, which are in the files."""
    fields = [field.name for field in dataclasses.fields(basis) if field.name not in LARGE]
    about = {name: getattr(basis, name) for name in fields}
    about |= {"transposed": sorted(basis.transposed), "files": list(files)}
    write_json(folder / BASIS_FILE, {key: _plain(value) for key, value in about.items()})


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


def assemble_basis(folder: Path, files: Sequence[str], **about: Any) -> Basis:  # noqa: ANN401
    """Make one basis of files of directions in a folder, and write what it is beside them.

    Args:
        folder: Where they are.
        files: Their names.
        about: The other attributes of `Basis`.
    """
    tensors = [FileTensors(folder / name) for name in files]
    basis = Basis(
        directions=_Joined(tensors, DIRECTIONS), spectra=_Joined(tensors, SPECTRUM), **about
    )
    write_about(folder, basis, files)
    return basis


def read_basis(folder: Path) -> Basis:
    """Read a basis; its directions are read from the files when they are asked for.

    Raises:
        DamagedArtifactError: A file is missing or damaged.
    """
    about = read_json(folder / BASIS_FILE)
    try:
        files = [FileTensors(folder / name) for name in about.pop("files")]
        about["transposed"] = frozenset(about["transposed"])
        return Basis(
            directions=_Joined(files, DIRECTIONS), spectra=_Joined(files, SPECTRUM), **about
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedArtifactError(
            f"{folder / BASIS_FILE} is damaged ({error}); delete {folder} and run the stage again"
        ) from error


def describe_basis(basis: Basis) -> dict[str, Any]:
    """Return what a record says of a basis: counts, and rank and spectrum of every site."""
    sizes = {site: len(spectrum) for site, spectrum in basis.spectra.items()}
    return {
        "kind": basis.kind,
        "num_matrices": len(basis.sites),
        "num_sites": len(set(basis.sites.values())),
        "num_tokens": basis.num_tokens,
        "fingerprint": basis.fingerprint,
        "sites": [
            {"site": site, "d_in": size, "rank": basis.ranks[site], **_shares(basis.spectra[site])}
            for site, size in sizes.items()
        ],
    }


def _shares(spectrum: Tensor) -> dict[str, Any]:
    """Return which share of the squared inputs some of the first directions hold."""
    shares = spectrum.double().cumsum(0) / spectrum.double().sum()
    tenth = max(len(spectrum) // 10, 1)
    return {
        "first_share": float(shares[0]),
        "top_tenth_share": float(shares[tenth - 1]),
        "num_for_90": int((shares < 0.9).sum()) + 1,
    }
