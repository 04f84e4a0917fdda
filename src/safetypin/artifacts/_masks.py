"""Sets of weights, and what sets of any kind can do."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from safetypin.artifacts._errors import ArtifactMismatchError

BoolTensor = Bool[Tensor, "..."]
Set = TypeVar("Set", bound="Members")


def model_hash(model_id: str) -> str:
    """Return the part of a model id that identifies the weights: all behind the last `#`."""
    return model_id.rpartition("#")[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Members:
    """A set over named tensors: True marks a member. Supports `-`, `&` and `|`."""

    tensors: Mapping[str, BoolTensor]
    model_id: str

    def __sub__(self: Set, other: Set) -> Set:
        return self._combine(other, lambda mine, theirs: mine & ~theirs)

    def __and__(self: Set, other: Set) -> Set:
        return self._combine(other, lambda mine, theirs: mine & theirs)

    def __or__(self: Set, other: Set) -> Set:
        return self._combine(other, lambda mine, theirs: mine | theirs)

    @property
    def num_selected(self) -> int:
        """Number of members."""
        return sum(int(mask.sum()) for mask in self.tensors.values())

    @property
    def num_entries(self) -> int:
        """Number of entries that could be members."""
        return sum(mask.numel() for mask in self.tensors.values())

    @property
    def fraction(self) -> float:
        """Share of the entries that are members, in [0, 1]."""
        return self.num_selected / self.num_entries

    @property
    def kind(self) -> str:
        """What the entries are, as far as it tells one set from another."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """Hash of names, shapes and members: 16 hex digits."""
        digest = hashlib.sha256(f"{model_hash(self.model_id)} {self.kind}".encode())
        for name in sorted(self.tensors):
            mask = self.tensors[name]
            digest.update(f"{name} {tuple(mask.shape)}".encode())
            digest.update(np.packbits(mask.flatten().cpu().numpy()).tobytes())
        return digest.hexdigest()[:16]

    def jaccard(self: Set, other: Set) -> float | None:
        """Return |A & B| / |A | B| over all entries; None where both sets are empty."""
        union = (self | other).num_selected
        return (self & other).num_selected / union if union else None

    def check_same(self: Set, other: Set) -> None:
        """Raise unless both sets are over the same entries of the same model."""
        raise NotImplementedError

    def _combine(
        self: Set, other: Set, rule: Callable[[BoolTensor, BoolTensor], BoolTensor]
    ) -> Set:
        self.check_same(other)
        tensors = {name: rule(mask, other.tensors[name]) for name, mask in self.tensors.items()}
        return dataclasses.replace(self, tensors=tensors)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightMask(Members):
    """A set of weights: True marks a member. Supports `-`, `&` and `|`.

    Attributes:
        tensors: By parameter name, each shaped as its weight.
        model_id: `model_id` of the model whose weights these are.
        space: "weights", or the fingerprint of the basis the coordinates are in.
    """

    space: str = "weights"

    @property
    def num_weights(self) -> int:
        """Number of weights that could be in the set."""
        return self.num_entries

    @property
    def kind(self) -> str:
        """The coordinates."""
        return self.space

    def check_same(self, other: "WeightMask") -> None:
        """Raise unless both masks are over the same weights in the same coordinates."""
        self.check_same_weights(other)

    def check_same_weights(self, other: "WeightMask") -> None:
        """Raise unless both masks are over the same weights in the same coordinates.

        Raises:
            ArtifactMismatchError: Names, shapes, coordinates or models differ.
        """
        if self.space != other.space:
            raise ArtifactMismatchError(f"coordinates differ: {self.space} against {other.space}")
        if odd := self.tensors.keys() ^ other.tensors.keys():
            raise ArtifactMismatchError(
                f"{len(odd)} weights are in only one of the two masks, first {min(odd)!r}; "
                "score both prompt sets with the same --targets"
            )
        for name, mask in self.tensors.items():
            if mask.shape != other.tensors[name].shape:
                raise ArtifactMismatchError(
                    f"{name} is {tuple(mask.shape)} in one mask and "
                    f"{tuple(other.tensors[name].shape)} in the other: they are of two models"
                )
        if model_hash(self.model_id) != model_hash(other.model_id):
            raise ArtifactMismatchError(
                f"the masks are of two models: {self.model_id} and {other.model_id}"
            )


def packed(mask: BoolTensor) -> Tensor:
    """Return the mask's bits, eight to a byte, first entry in the highest bit."""
    return torch.from_numpy(np.packbits(mask.flatten().cpu().numpy()))


def unpacked(bits: Tensor, shape: tuple[int, ...]) -> BoolTensor:
    """Undo `packed`.

    Raises:
        ValueError: The bits are of another shape.
    """
    count = math.prod(shape)
    if bits.numel() != math.ceil(count / 8):
        raise ValueError(f"{bits.numel()} bytes for the {count} entries of {shape}")
    values = np.unpackbits(bits.numpy(), count=count).astype(bool)
    return torch.from_numpy(values).view(shape)
