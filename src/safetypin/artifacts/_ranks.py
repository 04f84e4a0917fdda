"""Orthonormal directions of the output spaces of linear layers, most important first."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from safetypin.artifacts._basis import tensor_hash
from safetypin.artifacts._errors import ArtifactMismatchError, DamagedArtifactError, UserError
from safetypin.artifacts._files import write_tensors
from safetypin.artifacts._masks import model_hash
from safetypin.artifacts._store import FileTensors

RANKS_FILE = "ranks.safetensors"
DIRECTIONS, SINGULAR = "directions ", "singular "  # before the weight in a tensor's name

Rank = int | float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankBasis:
    """Orthonormal directions of each weight's output space, by falling importance.

    The ranks of ActSVD (Wei et al. 2024): of a weight W and its inputs X, the left singular vectors
    of W X^T. A rank is one of them.

    Attributes:
        directions: By parameter name, float32 `(d_out, k)` with orthonormal columns, whatever way
            the weight is stored. Any mapping will do, so that they can be read from a file.
        singular_values: By parameter name, the `(k,)` singular values of W X^T, falling; empty for
            random directions.
        full_ranks: By parameter name, the rank that the weight can have: min(d_out, d_in).
        hashes: SHA-256 of each weight's directions.
        model_id: `model_id` of the model whose weights these are.
        kind: `actsvd`, or `random` for a control.
        prompts_id: Fingerprint of the prompts.
        num_tokens: Tokens that were counted: no more ranks than these are known.
        transposed: Names of the weights that are stored as (d_in, d_out), as GPT-2's are.
        not_covered: Names of the weights that have no ranks: the experts of a mixture, and what
            the targets leave out.
    """

    directions: Mapping[str, Float[Tensor, "d_out k"]]
    singular_values: Mapping[str, Float[Tensor, " k"]]
    full_ranks: Mapping[str, int]
    hashes: Mapping[str, str]
    model_id: str
    kind: Literal["actsvd", "random"] = "actsvd"
    prompts_id: str = ""
    num_tokens: int = 0
    transposed: frozenset[str] = frozenset()
    not_covered: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash of the model, the weights and their directions: 16 hex digits."""
        digest = hashlib.sha256(f"{model_hash(self.model_id)} {self.kind}".encode())
        for name in sorted(self.hashes):
            digest.update(f"{name} {self.hashes[name]}\n".encode())
        return digest.hexdigest()[:16]

    @property
    def num_ranks(self) -> int:
        """The ranks that all weights together can have."""
        return sum(self.full_ranks.values())

    def count(self, name: str, rank: Rank) -> int:
        """Return how many directions of a weight a rank means, whether it has them or not.

        Args:
            name: Of the weight.
            rank: A whole number of directions; or, as a float in [0, 1], a share of those that
                the weight can have.

        Raises:
            UserError: It is negative, or above what the weight can have.
        """
        full = self.full_ranks[name]
        if isinstance(rank, float):
            if not 0 <= rank <= 1:
                raise UserError(
                    f"a share of ranks must be in [0, 1], got {rank:g}; write a number of ranks "
                    f"without a point: {rank:.0f}"
                )
            return round(rank * full)
        if not 0 <= rank <= full:
            raise UserError(
                f"rank {rank} is not between 0 and {full}, the rank that {name} can have; give a "
                "share such as 0.1, which every matrix can take, or leave it out with targets"
            )
        return rank

    def top(self, name: str, rank: Rank) -> Float[Tensor, "d_out k"]:
        """Return the most important directions of a weight.

        Raises:
            UserError: They are not known: more than were kept, or than tokens were counted.
        """
        wanted, known = self.count(name, rank), self.directions[name]
        if wanted <= known.shape[1]:
            return known[:, :wanted]
        if known.shape[1] == self.num_tokens < self.full_ranks[name]:
            raise too_few_tokens(self.num_tokens, wanted, name)
        raise UserError(
            f"{known.shape[1]} ranks of {name} were kept, {wanted} are asked for; make them again "
            "with a higher rank"
        )

    def cut(self, rank: Rank) -> "RankBasis":
        """Return the most important directions alone, with no new pass over the model.

        Raises:
            UserError: As `top` says.
        """
        directions = {name: self.top(name, rank).contiguous() for name in self.directions}
        values = {
            name: tensor[: directions[name].shape[1]].contiguous()
            for name, tensor in self.singular_values.items()
        }
        hashes = {name: tensor_hash(tensor) for name, tensor in directions.items()}
        return dataclasses.replace(
            self, directions=directions, singular_values=values, hashes=hashes
        )

    def check_same_weights(self, other: "RankBasis") -> None:
        """Raise unless both are of the same weights of the same model.

        Raises:
            ArtifactMismatchError: Names, shapes or models differ.
        """
        if model_hash(self.model_id) != model_hash(other.model_id):
            raise ArtifactMismatchError(
                f"the ranks are of two models: {self.model_id} and {other.model_id}"
            )
        if odd := self.full_ranks.keys() ^ other.full_ranks.keys():
            raise ArtifactMismatchError(
                f"{len(odd)} weights have ranks in only one of the two, first {min(odd)!r}; make "
                "both with the same targets and layers"
            )


def too_few_tokens(num_tokens: int, rank: int, name: str) -> UserError:
    """Return the error of directions that no counted token can tell."""
    return UserError(
        f"fewer counted tokens than ranks: {num_tokens} tokens were counted, which tell no more "
        f"directions of {name}, and {rank} are asked for; give more prompts, or a lower rank"
    )


class _AsOne(Mapping[str, Tensor]):
    """Directions and singular values under one roof, each asked for when it is written."""

    def __init__(self, ranks: RankBasis) -> None:
        self._parts = {DIRECTIONS: ranks.directions, SINGULAR: ranks.singular_values}

    def __getitem__(self, name: str) -> Tensor:
        prefix = DIRECTIONS if name.startswith(DIRECTIONS) else SINGULAR
        return self._parts[prefix][name.removeprefix(prefix)]

    def __iter__(self) -> Iterator[str]:
        for prefix, part in self._parts.items():
            yield from (prefix + name for name in part)

    def __len__(self) -> int:
        return sum(map(len, self._parts.values()))


class _Part(Mapping[str, Tensor]):
    """The tensors of a file under one prefix, each read when it is asked for."""

    def __init__(self, file: FileTensors, prefix: str, names: list[str]) -> None:
        self._file, self._prefix, self._names = file, prefix, names

    def __getitem__(self, name: str) -> Tensor:
        return self._file[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write_ranks(path: Path, ranks: RankBasis) -> None:
    """Write ranks to one file, weight by weight."""
    large = ("directions", "singular_values")
    fields = [field.name for field in dataclasses.fields(ranks) if field.name not in large]
    about = {name: getattr(ranks, name) for name in fields}
    about |= {"transposed": sorted(ranks.transposed), "names": list(ranks.directions)}
    about |= {"full_ranks": dict(ranks.full_ranks), "hashes": dict(ranks.hashes)}
    write_tensors(path, _AsOne(ranks), {"ranks": json.dumps(about)})


def read_ranks(path: Path) -> RankBasis:
    """Read ranks; directions are read from the file when they are asked for.

    Raises:
        DamagedArtifactError: The file is damaged or holds something else.
    """
    file = FileTensors(path)
    if "ranks" not in file.metadata:
        found = ", ".join(file.metadata) or "nothing that safetypin wrote"
        raise DamagedArtifactError(f"{path} holds no ranks but {found}")
    try:
        about: dict[str, Any] = json.loads(file.metadata["ranks"])
        names: list[str] = about.pop("names")
        valued = [name for name in names if SINGULAR + name in set(file)]
        if {DIRECTIONS + name for name in names} | {SINGULAR + name for name in valued} != set(
            file
        ):
            raise ValueError("its names are not those of its tensors")
        about["transposed"] = frozenset(about["transposed"])
        about["not_covered"] = tuple(about["not_covered"])
        return RankBasis(
            directions=_Part(file, DIRECTIONS, names),
            singular_values=_Part(file, SINGULAR, valued),
            **about,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedArtifactError(
            f"{path} is damaged ({error}); delete its folder and run the stage again"
        ) from error


def describe_ranks(ranks: RankBasis) -> dict[str, Any]:
    """Return what a record says of ranks: counts, and how fast each weight's energy is reached."""
    return {
        "kind": ranks.kind,
        "num_matrices": len(ranks.full_ranks),
        "num_ranks": ranks.num_ranks,
        "num_tokens": ranks.num_tokens,
        "fingerprint": ranks.fingerprint,
        "not_covered": list(ranks.not_covered),
        "matrices": [
            {"name": name, "kept": len(values), "num_for_90": _num_for_90(values)}
            for name, values in ranks.singular_values.items()
        ],
    }


def _num_for_90(values: Tensor) -> int | None:
    """Return how many directions hold nine tenths of the squared outputs of those kept."""
    energy = values.double().square()
    total = float(energy.sum())
    if not total or not math.isfinite(total):
        return None
    return int((energy.cumsum(0) < 0.9 * torch.tensor(total).double()).sum()) + 1
