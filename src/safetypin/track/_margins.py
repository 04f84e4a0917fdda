"""What rows and columns of a matrix have in common."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Closed = Bool[Tensor, "d_out d_in"]


def dot(left: Floats, right: Floats) -> float:
    """Return the sum of products, without BLAS.

    Its threads stay awake after each call and take the cores from torch's: on two cores drift took
    seven times as long.
    """
    return float(np.einsum("i,i", left, right))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Margins:
    """A matrix of amounts as mean + effect of the row + effect of the column + rest.

    Attributes:
        mean: Of the entries that can change; the others count as such a mean one.
        rows: Effects of the rows.
        columns: Effects of the columns.
        rest: Sum of the squares of the rest.
    """

    mean: float
    rows: Floats
    columns: Floats
    rest: float


def by_row(values: Floats, num_columns: int) -> Margins:
    """Return the effects of a matrix whose entries are the same all along a row."""
    mean = float(values.mean())
    return Margins(mean=mean, rows=values - mean, columns=np.zeros(num_columns), rest=0.0)


class Adder:
    """Sums of a matrix by row and by column, added up in chunks of rows."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._rows, self._columns = np.zeros(shape[0]), np.zeros(shape[1])
        self._squares = 0.0

    @property
    def total(self) -> float:
        """The sum of all values."""
        return float(self._rows.sum())

    def add(self, start: int, values: Float[Tensor, "rows d_in"]) -> None:
        """Take the values of some rows, the first of which is `start`."""
        self._rows[start : start + len(values)] = values.sum(dim=1).numpy()
        self._columns += values.sum(dim=0).numpy()
        self._squares += float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2

    def margins(self, closed: Closed | None, scale: float) -> Margins:
        """Return the effects of rows and columns, of the values times `scale`."""
        num_rows, num_columns = len(self._rows), len(self._columns)
        count = num_rows * num_columns
        rows, columns, squares = self._rows, self._columns, self._squares
        mean = self.total / (count - (0 if closed is None else int(closed.sum())))
        if closed is not None:
            rows = rows + closed.sum(dim=1).numpy() * mean
            columns = columns + closed.sum(dim=0).numpy() * mean
            squares += int(closed.sum()) * mean**2
        by_row, by_column = rows / num_columns - mean, columns / num_rows - mean
        rest = squares - count * mean**2
        rest -= num_columns * float(by_row @ by_row) + num_rows * float(by_column @ by_column)
        return Margins(
            mean=mean * scale,
            rows=by_row * scale,
            columns=by_column * scale,
            rest=max(rest, 0.0) * scale**2,
        )
