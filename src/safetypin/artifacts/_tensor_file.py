"""Large arrays on disk, filled where they lie."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safetypin.artifacts._files import replacing


class TensorFile:
    """A float32 safetensors file that is filled row by row, atomically.

    `file[name]` is a memory-mapped array to write to. Left without an error the file is there under
    its name; else it is not.
    """

    def __init__(
        self, path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]
    ) -> None:
        self._path, self._shapes, self._metadata = path, shapes, metadata
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> "TensorFile":
        header: dict[str, Any] = {"__metadata__": dict(self._metadata)}
        end = 0
        for name, shape in self._shapes.items():
            start, end = end, end + 4 * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text = text.ljust(len(text) + -len(text) % 8)
        temporary = self._undo.enter_context(replacing(self._path))
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            os.posix_fallocate(file.fileno(), 0, 8 + len(text) + end)
        self._whole = np.memmap(temporary, mode="r+", dtype=np.uint8, offset=8 + len(text))
        self._places = {name: header[name]["data_offsets"] for name in self._shapes}
        return self

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        start, end = self._places[name]
        part: NDArray[np.float32] = self._whole[start:end].view(np.float32)
        return part.reshape(self._shapes[name])

    def __exit__(self, *error: object) -> None:
        self._whole.flush()
        del self._whole
        self._undo.__exit__(*error)  # type: ignore[arg-type]
