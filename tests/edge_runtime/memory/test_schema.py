"""A file written with the first tables opens with its memories."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.memory.memory import Memory
from edge_runtime.memory.schema import STEPS
from edge_runtime.memory.statements import MemoryItem, content_digest
from edge_runtime.store.vault import Vault
from tests.edge_runtime.memory_helpers import HashingEmbedder

FIRST_STEPS = 6


def test_an_old_file_keeps_its_data_and_gets_the_new_columns(tmp_path: Path) -> None:
    with Vault.open(tmp_path, bytes(32)) as vault:
        vault.migrate("memory", STEPS[:FIRST_STEPS])
        for text, day in (("I live in Ghent.", "2024-01-01"), ("the hound barked", "2024-02-01")):
            vault.connection.execute(
                "INSERT INTO memories (digest, text, cue, said_at, source, recorded_at) VALUES (?, ?, '', ?, 'me', ?)",
                (content_digest(text, ""), text, day, "2024-03-01T00:00:00+00:00"),
            )
    with Vault.open(tmp_path, bytes(32)) as vault:
        memory = Memory(vault, HashingEmbedder())
        expected = MemoryItem(1, "I live in Ghent.", "", "2024-01-01", "me", "2024-03-01T00:00:00+00:00")
        assert memory.items()[0] == expected and len(memory) == 2
        assert memory.remember("i live in  ghent.") == expected  # still no duplicate
        assert memory.recall("the pup barked")[0].item.text == "the hound barked"  # embedded on the first search
        memory.remember("I moved to Porto.", said_at="2025-01-01")  # reads the claims of the old rows too
        assert memory.item(1).valid_until == "2025-01-01"
