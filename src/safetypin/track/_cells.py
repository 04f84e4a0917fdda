"""The parts of a model that a table has rows for."""

from collections.abc import Iterable

Cell = tuple[int | None, str | None]  # layer and role; None for all of them


def level_of(cell: Cell) -> str:
    """Return what kind of part a cell is: all, layer, role or matrix."""
    layer, role = cell
    if layer is None:
        return "all" if role is None else "role"
    return "layer" if role is None else "matrix"


def cells_of(places: Iterable[tuple[int | None, str]]) -> dict[Cell, list[int]]:
    """Return the parts that matrices make up: all, layers, roles, roles by layer.

    Args:
        places: Block (None outside the blocks) and place in the block of each matrix.

    Returns:
        The indices of the matrices in each part.
    """
    known = list(enumerate(places))
    blocks = [(index, layer, role) for index, (layer, role) in known if layer is not None]
    cells: dict[Cell, list[int]] = {(None, None): [index for index, _ in known]}
    for index, layer, _ in blocks:
        cells.setdefault((layer, None), []).append(index)
    for index, (_, role) in known:
        cells.setdefault((None, role), []).append(index)
    for index, layer, role in blocks:
        cells.setdefault((layer, role), []).append(index)
    return cells
