"""Orthonormal bases of the inputs of linear layers."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from safetypin.artifacts._errors import ArtifactMismatchError
from safetypin.artifacts._masks import model_hash

IDENTITY: Literal["identity"] = "identity"
Kind = Literal["input", "random", "identity"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Basis:
    """An orthonormal basis U of the input space of each linear layer.

    Layers that read one input share one basis: the query, key and value projections, and the gate
    and up projections. In the basis a weight W of shape (d_out, d_in) has the coefficients
    C = W U; one that is stored as (d_in, d_out) has C = U^T W.

    Attributes:
        directions: By input site, float32 `(d_in, d_in)`; its columns are the directions, that of
            the largest eigenvalue first. Empty for the identity. Any mapping will do, so that a
            basis can be read from a file when it is asked for.
        spectra: By input site, the eigenvalues of the Gram matrix X^T X, falling; empty where the
            basis was not made from inputs.
        sites: The input site of each weight that has coefficients, by parameter name.
        hashes: SHA-256 of each site's directions.
        ranks: By input site, how many directions the inputs reach; the others are an arbitrary
            basis of what is left.
        model_id: `model_id` of the model whose inputs these are.
        kind: `input`, the eigenvectors of the Gram matrices; `random`, uniformly random rotations;
            `identity`, the weights' own coordinates.
        prompts_id: Fingerprint of the prompts.
        counted: Which tokens were counted.
        template: Fingerprint of the chat template, "" where it is not known.
        num_tokens: Tokens that were counted in all.
        transposed: Names of the weights that are stored as (d_in, d_out), as GPT-2's are.
    """

    directions: Mapping[str, Float[Tensor, "d_in d_in"]]
    spectra: Mapping[str, Float[Tensor, " d_in"]]
    sites: Mapping[str, str]
    hashes: Mapping[str, str]
    ranks: Mapping[str, int]
    model_id: str
    kind: Kind = "input"
    prompts_id: str = ""
    counted: str = ""
    template: str = ""
    num_tokens: int = 0
    transposed: frozenset[str] = frozenset()

    @property
    def fingerprint(self) -> str:
        """Hash of the model, the sites and their directions: 16 hex digits."""
        digest = hashlib.sha256(f"{model_hash(self.model_id)} {self.kind}".encode())
        for name in sorted(self.sites):
            site = self.sites[name]
            digest.update(f"{name} {site} {self.hashes.get(site, '')}\n".encode())
        return digest.hexdigest()[:16]

    @property
    def space(self) -> str:
        """The coordinates of scores and masks in this basis; the identity's are the weights."""
        return "weights" if self.kind == IDENTITY else self.fingerprint

    def of(self, name: str) -> Float[Tensor, "d_in d_in"] | None:
        """Return the directions of a weight's input; None for the identity.

        Raises:
            ArtifactMismatchError: The basis has none for this weight.
        """
        self.check_has([name])
        return None if self.kind == IDENTITY else self.directions[self.sites[name]]

    def check_has(self, names: Mapping[str, object] | list[str]) -> None:
        """Raise unless every weight has a basis, whole and in its file.

        Raises:
            ArtifactMismatchError: One is missing, with its name.
        """
        missing = [name for name in names if name not in self.sites]
        if self.kind != IDENTITY:
            held = set(self.directions)
            missing += [name for name, site in self.sites.items() if site not in held]
        if missing:
            raise ArtifactMismatchError(
                f"the basis has no directions for {len(missing)} weights, first {missing[0]!r}; "
                "make it again with these layers and modules (safetypin warp basis)"
            )

    def rotated(self, name: str, weight: Float[Tensor, "rows columns"]) -> Tensor:
        """Return the coefficients of a weight, or of a gradient of its shape."""
        directions = self.of(name)
        if directions is None:
            return weight
        directions = directions.to(weight)
        return directions.T @ weight if name in self.transposed else weight @ directions


def tensor_hash(tensor: Shaped[Tensor, "..."]) -> str:
    """Return the SHA-256 of a tensor's values, in hex."""
    values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().data).hexdigest()
