"""Tables of a run as parquet files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safetypin.artifacts import DamagedArtifactError, replacing

Row = dict[str, Any]


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows with the same keys as one parquet file; a column of None counts as numbers.

    Raises:
        UserError: The disk is full.
    """
    names = list(rows[0]) if rows else []
    schema = pa.schema([(name, _kind([row[name] for row in rows])) for name in names])
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary)


def read_table(path: Path) -> list[Row]:
    """Read the rows of a parquet file.

    Raises:
        DamagedArtifactError: It is missing or no parquet file.
    """
    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise DamagedArtifactError(
            f"{path} cannot be read ({error}); delete its folder and run the stage again"
        ) from error
    return rows


def _kind(values: Sequence[Any]) -> pa.DataType:
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return pa.bool_()
    if known and all(isinstance(value, int) for value in known):
        return pa.int64()
    if known and isinstance(known[0], str):
        return pa.string()
    if known and isinstance(known[0], list | tuple):
        return pa.list_(_kind([item for value in known for item in value]))
    return pa.float64()
