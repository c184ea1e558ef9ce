"""What search reads of every memory, cached in RAM from the encrypted file as arrays with one row per memory.

Up to some tens of thousands of memories one matrix product is faster than an index (20,000 x 384: 8 ms;
sqlite-vec: 100 ms), exact, and has nothing to forget separately. The cache follows changes by other processes
through SQLite's `data_version`; this process calls `add` or `clear`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.memory.windows import neighbours
from edge_runtime.store.vault import Vault

STILL: Final = date.max.toordinal() + 1  # `until` of what holds still

_JULIAN_OF_ORDINAL_0 = 1721424.5
_SELECT = (
    f"SELECT id, CAST(julianday(said_at) - {_JULIAN_OF_ORDINAL_0} AS INTEGER), "
    f"coalesce(CAST(julianday(valid_until) - {_JULIAN_OF_ORDINAL_0} AS INTEGER), {STILL}), position, "
    "kind = 'passage', substr(text, -1) = '?', speaker, document FROM memories"
)


class MemoryTable:
    """One row per memory, by id. (n,) int64: `ids`; `days`, `until` (proleptic ordinals: valid from `days`, before
    `until`); `positions`; `speakers` and `documents` (codes: place in `speaker_names`, whose first is the owner's "",
    and 0 for no document). (n,) bool: `passages`, `asking` (ends with a question mark). `around`: see windows.py; no
    rows if nothing belongs to a document. `matrix` (n, d) float32: unit vectors, or (n, 0) while nobody asked for
    them. `years`: those of `days`.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.clear()

    def clear(self) -> None:
        """Drops all rows; they are read again at the next refresh."""
        if hasattr(self, "matrix"):
            self.matrix[...] = 0.0  # the vectors of forgotten text do not linger in this process's heap
        self._version = -1
        self._new: list[int] = []
        self._without_vector = 0
        self._speaker_codes, self._document_codes = {"": 0}, {"": 0}
        self._set(np.empty((0, 8), np.int64), np.empty((0, 0), np.float32))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def speaker_names(self) -> list[str]:
        """The distinct speakers; the code of a speaker is its place here."""
        return list(self._speaker_codes)

    def refresh(self, dimension: int = 0) -> bool:
        """Brings the rows up to date, with vectors of length `dimension` unless that is 0. Returns whether all have
        one: a file outlives a change of the embedding model, and rows without are 0."""
        version = int(self._vault.connection.execute("PRAGMA data_version").fetchone()[0])
        width = self.matrix.shape[1]
        if version != self._version or (dimension and dimension != width):
            self.clear()
            self._set(self._read(), self._vectors(dimension or width))
            self._version = version
        elif self._new:
            new = json.dumps(self._new)
            rows = np.concatenate([self._rows, self._read("WHERE id IN (SELECT value FROM json_each(?))", (new,))])
            self._set(rows, np.concatenate([self.matrix, self._vectors(width, new)]))
            self._new = []
        return not (dimension and self._without_vector)

    def add(self, memory_ids: Sequence[int]) -> None:
        """Notes rows that this process has just written; ids only grow."""
        self._new += memory_ids

    def _set(self, rows: NDArray[np.int64], matrix: NDArray[np.float32]) -> None:
        self._rows, self.matrix = rows, matrix
        self.ids, self.days, self.until, self.positions = rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3]
        self.passages, self.asking = rows[:, 4].astype(bool), rows[:, 5].astype(bool)
        self.speakers, self.documents = rows[:, 6], rows[:, 7]
        self.years = {date.fromordinal(int(day)).year for day in np.unique(self.days)}
        self.around = neighbours(self.documents, self.positions) if self.documents.any() else _ALONE

    def _read(self, where: str = "", values: tuple[Any, ...] = ()) -> NDArray[np.int64]:
        found = self._vault.connection.execute(f"{_SELECT} {where} ORDER BY id", values).fetchall()
        rows = [
            (
                *row[:6],
                self._speaker_codes.setdefault(row[6], len(self._speaker_codes)),
                self._document_codes.setdefault(row[7], len(self._document_codes)),
            )
            for row in found
        ]
        return np.array(rows, np.int64).reshape(-1, 8)

    def _vectors(self, dimension: int, ids: str = "") -> NDArray[np.float32]:
        """(n, dimension), in the order of the ids (`ids`: a JSON list; all if empty)."""
        chosen = "WHERE id IN (SELECT value FROM json_each(?))" if ids else ""
        none = bytes(4 * dimension)
        found = self._vault.connection.execute(
            "SELECT CASE length(vector) WHEN ? THEN vector END FROM memories "
            f"LEFT JOIN memory_vectors ON memory_id = id {chosen} ORDER BY id",
            (4 * dimension, ids) if ids else (4 * dimension,),
        ).fetchall()
        self._without_vector += sum(vector is None for (vector,) in found)
        joined = b"".join(vector or none for (vector,) in found)
        return np.frombuffer(joined, "<f4").astype(np.float32).reshape(len(found), dimension)


_ALONE: Final = np.empty((0, 0), np.int64)
