"""What changed in each weight: a tensor's difference, or the product of an adapter's matrices.

For LoRA the change is s B A and nothing else: the merged model, rounded to bfloat16, would hide
most small changes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from safetypin.artifacts import UserError
from safetypin.track._reference import Index, Matrices, Reference

Values = Float[Tensor, " k"]
Rows = Float[Tensor, "rows d_in"]
Reached = Bool[Tensor, "rows d_in"]  # one row for all where the rows are alike

_CHUNK = 1 << 22  # numbers gathered at once


@runtime_checkable
class Change(Protocol):
    """How a weight changed, as (matrices, d_out, d_in): one matrix, or one an expert."""

    def rows(self, matrix: int, start: int, stop: int) -> Rows:
        """Return some rows of the change of one matrix, float32."""

    def at(self, matrix: int, rows: Index, columns: Index) -> Values:
        """Return the change at some entries of one matrix, float32."""

    def reached(self, matrix: int) -> Reached | None:
        """Return which entries can change at all; None where the matrix cannot."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """A change that is stored entry by entry."""

    values: Matrices

    def rows(self, matrix: int, start: int, stop: int) -> Rows:
        """Return some rows of the change of one matrix."""
        return self.values[matrix, start:stop]

    def at(self, matrix: int, rows: Index, columns: Index) -> Values:
        """Return the change at some entries of one matrix."""
        return self.values[matrix, rows, columns]

    def reached(self, matrix: int) -> Reached | None:
        """Return all entries; None where not one entry of the matrix changed.

        A full checkpoint does not say what was trained, but an optimizer that trains a matrix
        moves some entry of it.
        """
        values = self.values[matrix]
        return torch.ones(1, values.shape[1], dtype=torch.bool) if bool(values.any()) else None


@dataclasses.dataclass(frozen=True, eq=False)
class LowRank:
    """A change `left @ right` of one matrix, which is never made whole.

    Attributes:
        left: s B, float32, the scale in it.
        right: A, float32.
    """

    left: Float[Tensor, "d_out r"]
    right: Float[Tensor, "r d_in"]

    def rows(self, matrix: int, start: int, stop: int) -> Rows:
        """Return some rows of the product."""
        assert matrix == 0
        return self.left[start:stop] @ self.right

    def at(self, matrix: int, rows: Index, columns: Index) -> Values:
        """Return the product at k entries, in O(k r)."""
        assert matrix == 0
        step = max(_CHUNK // self.left.shape[1], 1)
        right = self.right.T
        parts = [
            (self.left[i] * right[j]).sum(dim=1)
            for i, j in zip(rows.split(step), columns.split(step), strict=True)
        ]
        return torch.cat(parts) if parts else torch.zeros(0)

    def reached(self, matrix: int) -> Reached | None:
        """Return the columns that A reads: one of zeros, as `lora-column` leaves, changes none."""
        assert matrix == 0
        return self.right.any(dim=0, keepdim=True)

    def joined(self, other: "LowRank") -> "LowRank":
        """Return the sum of two changes."""
        left = torch.cat([self.left, other.left], dim=1)
        return LowRank(left, torch.cat([self.right, other.right], dim=0))


@dataclasses.dataclass(frozen=True, eq=False)
class Masked:
    """A low-rank change that is zero at masked entries, as `lora-entry` trains.

    Attributes:
        product: The change elsewhere.
        mask: True where there is none.
    """

    product: LowRank
    mask: Bool[Tensor, "d_out d_in"]

    def rows(self, matrix: int, start: int, stop: int) -> Rows:
        """Return some rows of the change."""
        return self.product.rows(matrix, start, stop).masked_fill(self.mask[start:stop], 0.0)

    def at(self, matrix: int, rows: Index, columns: Index) -> Values:
        """Return the change at k entries, in O(k r)."""
        return self.product.at(matrix, rows, columns).masked_fill(self.mask[rows, columns], 0.0)

    def reached(self, matrix: int) -> Reached | None:
        """Return the entries outside the mask."""
        reached = self.product.reached(matrix)
        return None if reached is None else reached & ~self.mask


@runtime_checkable
class Source(Protocol):
    """A tuned model, as the changes of its weights.

    Attributes:
        name: What the user calls it.
        notes: What a reader must know of the numbers, found while reading.
    """

    name: str
    notes: list[str]

    def change(self, name: str) -> Change | None:
        """Return how a weight changed; None where nothing could change it."""


class FullSource:
    """The difference of two full models, one tensor at a time."""

    def __init__(self, reference: Reference, weights: Mapping[str, Tensor], name: str) -> None:
        self.name, self.notes = name, list[str]()
        self._reference, self._weights = reference, weights

    def change(self, name: str) -> Change | None:
        """Return tuned minus reference.

        Raises:
            UserError: The tuned model is of another shape, or quantised.
        """
        shape, after = self._reference.shape(name), self._tuned(name)
        if tuple(after.shape) != shape:
            raise UserError(
                f"{name} is {tuple(after.shape)} in {self.name} and {shape} in the reference "
                f"{self._reference.name}: they are two different models"
            )
        if not after.is_floating_point() or after.element_size() < 2:
            raise UserError(
                f"{name} is quantised ({after.dtype}) in {self.name}; give the model as it was "
                "trained, in float32 or bfloat16"
            )
        before = self._reference.matrices(name)
        if not self.notes and after.element_size() < 4:
            self._note_precision(before, after.dtype)
        return Dense(self._reference.oriented(name, after) - before)

    def _tuned(self, name: str) -> Tensor:
        try:
            return self._weights[name]
        except KeyError as error:
            raise UserError(
                f"{self.name} has no weight {name}, which the reference {self._reference.name} "
                "has: they are two different models"
            ) from error

    def _note_precision(self, before: Matrices, dtype: torch.dtype) -> None:
        kind = str(dtype).removeprefix("torch.")
        half_step = torch.finfo(dtype).eps / 2
        if torch.equal(before.to(dtype).float(), before):
            self.notes.append(
                f"{self.name} is stored in {kind}: changes of less than about {half_step:.1%} of "
                "a weight are lost in it; `changed_share` shows how many"
            )
        else:
            self.notes.append(
                f"{self.name} is stored in {kind}, the reference is finer: rounding alone moves "
                f"weights by up to {half_step:.1%}, in every group; save the tuned model in "
                "float32, or track its adapter"
            )


class LoraSource:
    """The adapters of a model: s B A where there is one, nothing elsewhere.

    Attributes:
        found: The changes by parameter name, also of matrices that were trained whole.
    """

    def __init__(
        self, name: str, found: Mapping[str, Change], notes: list[str] | None = None
    ) -> None:
        self.name, self.notes, self.found = name, notes or [], found

    def change(self, name: str) -> Change | None:
        """Return an adapter's product; None where no adapter is."""
        return self.found.get(name)
