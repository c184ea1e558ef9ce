"""The matrix of memory vectors, cached in RAM from the encrypted file.

Up to some tens of thousands of memories one matrix product is faster than an index (20,000 x 384: 8 ms;
sqlite-vec: 100 ms), exact, and has nothing to forget separately. The cache follows changes by other processes
through SQLite's `data_version`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from edge_runtime.store.vault import Vault


class VectorCache:
    """Rows of `memory_vectors`: `ids` (n,) int64, `days` (n,) int64 (proleptic ordinals of the dates),
    `matrix` (n, d) float32."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._version = -1
        self.ids: NDArray[np.int64] = np.empty(0, np.int64)
        self.days: NDArray[np.int64] = np.empty(0, np.int64)
        self.matrix: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._new: list[tuple[int, int, NDArray[np.float32]]] = []

    def refresh(self, dimension: int) -> bool:
        """Brings the arrays up to date; vectors of another length (made by another embedder) are left out.
        Returns whether all were read again from the file."""
        version = int(self._vault.connection.execute("PRAGMA data_version").fetchone()[0])
        reload = version != self._version or self.matrix.shape[1] != dimension
        if reload:
            rows = self._vault.connection.execute(
                "SELECT memory_id, said_at, vector FROM memory_vectors JOIN memories ON id = memory_id "
                "WHERE length(vector) = ? ORDER BY memory_id",
                (4 * dimension,),
            ).fetchall()
            self._version = version
            self.ids = np.array([row[0] for row in rows], np.int64)
            self.days = np.array([date.fromisoformat(row[1]).toordinal() for row in rows], np.int64)
            joined = b"".join(row[2] for row in rows)
            self.matrix = np.frombuffer(joined, "<f4").astype(np.float32).reshape(len(rows), dimension)
        elif self._new:
            self.ids = np.append(self.ids, [row[0] for row in self._new])
            self.days = np.append(self.days, [row[1] for row in self._new])
            self.matrix = np.concatenate([self.matrix, np.stack([row[2] for row in self._new])])
        self._new = []
        return reload

    def add(self, memory_id: int, said_at: str, vector: NDArray[np.float32]) -> None:
        """Notes a row that this process has just written."""
        self._new.append((memory_id, date.fromisoformat(said_at).toordinal(), vector))

    def clear(self, memory_ids: Sequence[int] | None = None) -> None:
        """Drops the given rows, or all, and overwrites nothing else: the arrays are rebuilt at the next
        refresh."""
        self._version = -1
        self._new = []
        if memory_ids is None or np.isin(self.ids, memory_ids).any():
            self.matrix[...] = 0.0  # the vectors of forgotten text do not linger in this process's heap
            self.matrix = np.empty((0, 0), np.float32)
            self.ids, self.days = np.empty(0, np.int64), np.empty(0, np.int64)
