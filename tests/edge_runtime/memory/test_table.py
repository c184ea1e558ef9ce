"""The rows in RAM are those of the file."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np

from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import Statement
from edge_runtime.memory.table import STILL, MemoryTable
from edge_runtime.store.vault import Vault
from tests.edge_runtime.memory_helpers import HashingEmbedder


def test_columns_and_vectors(tmp_path: Path) -> None:
    with Vault.open(tmp_path, bytes(32)) as vault:
        memory, embedder = Memory(vault, HashingEmbedder(8)), HashingEmbedder(8)
        first = memory.remember("one", said_at="0001-01-01")
        memory.remember_many(
            [
                Statement("two?", said_at="2024-02-29", kind="passage", speaker="Ana", document="d", position=7),
                Statement("three", said_at="9999-12-31", kind="passage", speaker="Ana", document="d", position=3),
            ]
        )
        memory.supersede(first.id, "2024-03-01")
        table = MemoryTable(vault)
        assert table.refresh() and table.matrix.shape == (3, 0)
        days = [date(1, 1, 1), date(2024, 2, 29), date(9999, 12, 31)]
        assert table.days.tolist() == [day.toordinal() for day in days]
        assert table.until.tolist() == [date(2024, 3, 1).toordinal(), STILL, STILL]
        assert table.passages.tolist() == [False, True, True] and table.asking.tolist() == [False, True, False]
        assert table.speaker_names == ["", "Ana"] and table.speakers.tolist() == [0, 1, 1]
        assert table.documents.tolist() == [0, 1, 1] and table.positions.tolist() == [0, 7, 3]
        assert table.around[0].tolist() == [-1, -1, 1] and table.years == {1, 2024, 9999}
        assert table.refresh(8) and np.allclose(table.matrix, embedder.embed(["one", "two?", "three"]))
        assert not table.refresh(16) and not table.matrix.any()  # made by another embedder


def test_rows_added_equal_rows_read_again_and_cleared_vectors_leave_the_heap(tmp_path: Path) -> None:
    with Vault.open(tmp_path, bytes(32)) as vault:
        memory, table, fresh = Memory(vault, HashingEmbedder(8)), MemoryTable(vault), MemoryTable(vault)
        table.refresh(8)
        for number in range(4):
            item = memory.remember_many([Statement(f"number {number}", kind="passage", document="d", position=-number)])
            table.add([item[0].id])
            table.refresh(8)
        fresh.refresh(8)
        for name in ("ids", "days", "until", "positions", "documents", "speakers", "passages", "around", "matrix"):
            assert np.array_equal(getattr(table, name), getattr(fresh, name)), name
        held = table.matrix
        table.clear()
        assert not held.any() and len(table) == 0 and len(held) == 4
