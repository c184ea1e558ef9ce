"""Rows of a large ``.npy`` file, read as they are wanted.

A mapped file would do, but what the system maps around each row that is touched counts as this process's memory, and
grows with the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RowFile:
    """A C-ordered array whose first axis is read row by row; can be pickled."""

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r")
        self.shape: tuple[int, ...] = mapped.shape
        self._path, self._type, self._start = path, mapped.dtype, int(mapped.offset)

    def rows(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """A copy of the rows ``index``."""
        found = np.empty((len(index), *self.shape[1:]), self._type)
        size = found[:1].nbytes
        with self._path.open("rb", buffering=0) as file:
            for place, row in enumerate(index):
                file.seek(self._start + int(row) * size)
                file.readinto(memoryview(found[place]).cast("B"))
        return found
