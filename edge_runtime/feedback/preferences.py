"""Choices of the owner: for this prompt, this answer and not that one. They feed reward bases and the steps
after them.

The answers may be a model's words, so they are kept apart from memories: recall never sees them.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from edge_runtime.memory.statements import checked_text, content_digest, iso_date
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

# Where a choice comes from: made between two answers, by editing one, or by one thumb up and another down.
Origin = Literal["choice", "edit", "thumbs"]

PREFERENCE_STEPS: Final = (
    "CREATE TABLE preferences (id INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE, "
    "prompt TEXT NOT NULL, chosen TEXT NOT NULL, rejected TEXT NOT NULL, said_at TEXT NOT NULL)",
    "CREATE TABLE ratings (turn INTEGER PRIMARY KEY, question BLOB NOT NULL, prompt TEXT NOT NULL, "
    "answer TEXT NOT NULL, up INTEGER NOT NULL, note TEXT NOT NULL, rated_at TEXT NOT NULL, "
    "memory_ids TEXT NOT NULL)",
    "ALTER TABLE preferences ADD COLUMN origin TEXT NOT NULL DEFAULT 'choice'",
    # The memories behind the answers, as a JSON list: they go when one of those is forgotten.
    "ALTER TABLE preferences ADD COLUMN memory_ids TEXT NOT NULL DEFAULT '[]'",
)


@dataclass(frozen=True)
class Preference:
    """A choice of the owner: for `prompt`, `chosen` rather than `rejected`."""

    id: int
    prompt: str
    chosen: str
    rejected: str
    said_at: str


def add_preference(
    vault: Vault,
    prompt: str,
    chosen: str,
    rejected: str,
    said_at: str | None = None,
    *,
    origin: Origin = "choice",
    memory_ids: Collection[int] = (),
) -> Preference:
    """Stores a choice (`said_at`: ISO date, today if None); an equal one that is there is returned
    unchanged."""
    prompt, chosen, rejected = (checked_text(text) for text in (prompt, chosen, rejected))
    if chosen == rejected:
        raise PenchantError("A preference needs two different answers.")
    digest = content_digest(prompt, chosen, rejected)
    vault.connection.execute(
        "INSERT OR IGNORE INTO preferences (digest, prompt, chosen, rejected, said_at, origin, memory_ids) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (digest, prompt, chosen, rejected, iso_date(said_at), origin, json.dumps(sorted(memory_ids))),
    )
    return _select(vault, "WHERE digest = ?", (digest,))[0]


def list_preferences(vault: Vault) -> list[Preference]:
    """All choices, oldest first."""
    return _select(vault)


def remove_preference(vault: Vault, preference_id: int) -> None:
    """Removes one choice; PenchantError if there is none with this id."""
    if not vault.connection.execute("DELETE FROM preferences WHERE id = ?", (preference_id,)).rowcount:
        raise PenchantError(f"There is no preference {preference_id}; `penchant feedback list` shows the ids.")


def _select(vault: Vault, where: str = "", values: tuple[bytes, ...] = ()) -> list[Preference]:
    rows = vault.connection.execute(
        f"SELECT id, prompt, chosen, rejected, said_at FROM preferences {where} ORDER BY said_at, id", values
    )
    return [Preference(*row) for row in rows]
