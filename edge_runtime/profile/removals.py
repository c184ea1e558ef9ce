"""What the owner removed from the profile, kept so that no rebuild brings it back."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Final, Literal

from edge_runtime.store.vault import Vault

Kind = Literal["attribute", "rule"]
REMOVAL_STEPS: Final = (
    "CREATE TABLE profile_removed (kind TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, memory_ids TEXT "
    "NOT NULL, "
    "PRIMARY KEY (kind, name, value)) WITHOUT ROWID",
)


class Removals:
    """The removed attributes (name and value) and rules (no name) of a profile."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def keys(self, kind: Kind) -> set[tuple[str, str]]:
        """Name and value, in lower case, of everything of this kind that was removed."""
        rows = self._vault.connection.execute("SELECT name, value FROM profile_removed WHERE kind = ?", (kind,))
        return {(name.casefold(), value.casefold()) for name, value in rows}

    def note(self, kind: Kind, name: str, value: str, memory_ids: Sequence[int]) -> None:
        """Notes a removal and the memories that what was removed had come from."""
        self._vault.connection.execute(
            "INSERT OR REPLACE INTO profile_removed VALUES (?, ?, ?, ?)",
            (kind, name, value, json.dumps(list(memory_ids))),
        )

    def undo(self, kind: Kind, name: str, value: str) -> None:
        """Lets something come back."""
        self._vault.connection.execute(
            "DELETE FROM profile_removed WHERE kind = ? AND lower(name) = lower(?) AND lower(value) = lower(?)",
            (kind, name, value),
        )

    def forget_traces(self, forgotten: Collection[int], is_trace: Callable[[str], bool]) -> int:
        """Drops the notes that came from these memories or repeat their words; how many."""
        rows = self._vault.connection.execute("SELECT kind, name, value, memory_ids FROM profile_removed").fetchall()
        doomed = [
            (kind, name, value)
            for kind, name, value, ids in rows
            if set(json.loads(ids)) & set(forgotten) or is_trace(f"{name} {value}")
        ]
        for kind, name, value in doomed:
            self.undo(kind, name, value)
        return len(doomed)
