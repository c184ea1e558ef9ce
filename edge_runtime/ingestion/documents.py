"""What the owner brought in: one row per file, and which memories came from which place in it.

A document's id is made from its path and its content when it was first read and stays while the file changes. What
belongs together inside a file (a mail, a conversation) is `id/part` in `MemoryItem.document`. A passage that several
files hold (known by its `key`) is one memory that each of them names. Passages of an older version, and of documents
that were forgotten, are *stale* until they have gone through the forgetting cascade: a killed program leaves them
marked, and the next import makes up for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edge_runtime.memory import schema as memory_schema
from edge_runtime.memory.statements import utc_now
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

_STEPS: Final = (
    # A file is found again by the digest of its path: the path itself may have to be forgotten.
    "CREATE TABLE documents (id TEXT PRIMARY KEY, path_digest TEXT NOT NULL UNIQUE, "
    "path TEXT NOT NULL, kind TEXT NOT NULL, "
    "bytes INTEGER NOT NULL, mtime TEXT NOT NULL, digest TEXT NOT NULL, chunks INTEGER NOT NULL, "
    "completed INTEGER NOT NULL, added_at TEXT NOT NULL, owned TEXT NOT NULL, owners TEXT NOT NULL) WITHOUT ROWID",
    # A memory that is forgotten takes its places with it.
    "CREATE TABLE document_chunks (id INTEGER PRIMARY KEY, document TEXT NOT NULL, part TEXT NOT NULL, "
    "position INTEGER NOT NULL, key BLOB NOT NULL, "
    "memory_id INTEGER NOT NULL REFERENCES memories (id) ON DELETE CASCADE, "
    "stale INTEGER NOT NULL DEFAULT 0)",
    "CREATE INDEX document_chunks_by_document ON document_chunks (document)",
    "CREATE INDEX document_chunks_by_memory ON document_chunks (memory_id)",
    "CREATE INDEX document_chunks_by_key ON document_chunks (key)",
    "CREATE TABLE document_owner_names (name TEXT PRIMARY KEY) WITHOUT ROWID",
)
_COLUMNS: Final = "id, path, kind, bytes, mtime, digest, chunks, completed, added_at, owned, owners"
_FORGOTTEN_PATH: Final = "(forgotten name)"


@dataclass(frozen=True)
class Document:
    """One file. `chunks` passages of it are stored, all of them if `completed`; `mtime` and `added_at` are ISO times,
    `digest` the SHA-256 of its content. `owned`: the speakers in it that are the owner; `owners`: the owner's names
    when that was decided."""

    id: str
    path: str
    kind: str
    bytes: int
    mtime: str
    digest: str
    chunks: int
    completed: bool
    added_at: str
    owned: tuple[str, ...]
    owners: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A place in a document: `part` as in `MemoryItem.document`, `key` says what stands there."""

    part: str
    position: int
    key: bytes


class Documents:
    """The documents of one device."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        vault.migrate("memory", memory_schema.STEPS)  # ours refer to them
        vault.migrate("ingestion", _STEPS)

    def listing(self) -> list[Document]:
        """All documents, oldest first."""
        return self._select("ORDER BY added_at, path")

    def document(self, beginning: str) -> Document:
        """The document whose id begins so; PenchantError if there is none or more than one."""
        found = self._select("WHERE substr(id, 1, ?) = ?", len(beginning), beginning) if beginning else []
        if len(found) != 1:
            problem = "More than one document has" if found else "There is no document with"
            raise PenchantError(f"{problem} the id {beginning}; `penchant documents` shows the ids.")
        return found[0]

    def at_path(self, path: Path) -> Document | None:
        """The document that was read from here."""
        return next(iter(self._select("WHERE path_digest = ?", _digest(_name(path)))), None)

    def with_digest(self, digest: str) -> Document | None:
        """A completed document with this content."""
        return next(iter(self._select("WHERE digest = ? AND completed", digest)), None)

    def begin(self, document: Document) -> Document:
        """Notes a document, or a new version of one, as begun and returns it with no chunks; what was stored of the
        version before is stale."""
        known = self.at_path(Path(document.path))
        document_id = known.id if known else document.id
        with self._vault.transaction() as connection:
            connection.execute("UPDATE document_chunks SET stale = 1 WHERE document = ?", (document_id,))
            connection.execute(
                f"INSERT OR REPLACE INTO documents (path_digest, {_COLUMNS}) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?)",
                (
                    _digest(document.path),
                    document_id,
                    document.path,
                    document.kind,
                    document.bytes,
                    document.mtime,
                    document.digest,
                    document.added_at,
                    json.dumps(document.owned),
                    json.dumps(document.owners),
                ),
            )
        return self.document(document_id)

    def held(self, place: Place) -> int | None:
        """The memory that says what stands at `place`: from this place in the version before, else from any
        document that still has it."""
        row = self._vault.connection.execute(
            "SELECT memory_id FROM document_chunks WHERE key = ? AND (NOT stale OR (part = ? AND position = ?)) "
            "ORDER BY (part = ? AND position = ?) DESC, id",
            (place.key, *(place.part, place.position) * 2),
        ).fetchone()
        return int(row[0]) if row else None

    def add_chunks(self, document_id: str, places: Sequence[tuple[Place, int]]) -> None:
        """Notes the next passages with their memories; to be called in the transaction that stores them."""
        with self._vault.transaction() as connection:
            connection.executemany(
                "INSERT INTO document_chunks (document, part, position, key, memory_id) VALUES (?, ?, ?, ?, ?)",
                [(document_id, *astuple(place), memory_id) for place, memory_id in places],
            )
            connection.execute("UPDATE documents SET chunks = chunks + ? WHERE id = ?", (len(places), document_id))

    def complete(self, document_id: str) -> None:
        self._vault.connection.execute("UPDATE documents SET completed = 1 WHERE id = ?", (document_id,))

    def set_owners(self, document_id: str, owners: Sequence[str]) -> None:
        """Notes that these names of the owner change nothing in the document."""
        self._vault.connection.execute(
            "UPDATE documents SET owners = ? WHERE id = ?", (json.dumps(list(owners)), document_id)
        )

    def remove(self, document_id: str) -> None:
        """Removes the document from the list; its passages are stale."""
        with self._vault.transaction() as connection:
            connection.execute("UPDATE document_chunks SET stale = 1 WHERE document = ?", (document_id,))
            connection.execute("DELETE FROM documents WHERE id = ?", (document_id,))

    def stale_memories(self) -> dict[int, Place | None]:
        """Memories named by a removed document, or by the older version of a completed one, each with a place in
        which it still stands."""
        rows = self._vault.connection.execute(
            "SELECT DISTINCT memory_id FROM document_chunks AS chunk WHERE stale AND NOT EXISTS "
            "(SELECT 1 FROM documents WHERE documents.id = chunk.document AND NOT completed) ORDER BY memory_id"
        ).fetchall()
        return {memory_id: self._place(memory_id) for (memory_id,) in rows}

    def move(self, old_id: int, new_id: int) -> None:
        """Lets every place that named the memory `old_id` name `new_id`."""
        self._vault.connection.execute(
            "UPDATE document_chunks SET memory_id = ? WHERE memory_id = ? AND NOT stale", (new_id, old_id)
        )

    def drop_stale(self, memory_ids: Collection[int]) -> None:
        """Drops the stale places of these memories: they have been dealt with."""
        self._vault.connection.execute(
            "DELETE FROM document_chunks WHERE stale AND memory_id IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted(memory_ids)),),
        )

    def owner_names(self, added: Iterable[str] = ()) -> tuple[str, ...]:
        """The names and addresses by which the owner goes in mail and chats, with those that are `added` from now
        on, in one spelling and sorted."""
        names = {" ".join(name.split()).casefold() for name in added} - {""}
        with self._vault.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO document_owner_names VALUES (?)", [(name,) for name in sorted(names)]
            )
            return tuple(name for (name,) in connection.execute("SELECT name FROM document_owner_names ORDER BY name"))

    def forget_traces(self, item_ids: Collection[int], is_trace: Callable[[str], bool]) -> int:
        """Drops the places of forgotten memories, and file names that say what they said. The file itself stays
        noted, so that it is not read again while it is unchanged."""
        with self._vault.transaction() as connection:
            dropped = connection.execute(
                "DELETE FROM document_chunks WHERE memory_id IN (SELECT value FROM json_each(?))",
                (json.dumps(sorted(item_ids)),),
            ).rowcount
            telling = [document.id for document in self.listing() if is_trace(document.path)]
            connection.executemany(
                "UPDATE documents SET path = ? WHERE id = ?", [(_FORGOTTEN_PATH, name) for name in telling]
            )
        return int(dropped) + len(telling)

    def forget_all(self) -> int:
        """Drops every document and the owner's names."""
        with self._vault.transaction() as connection:
            connection.execute("DELETE FROM document_chunks")
            connection.execute("DELETE FROM document_owner_names")
            return int(connection.execute("DELETE FROM documents").rowcount)

    def _place(self, memory_id: int) -> Place | None:
        row = self._vault.connection.execute(
            "SELECT part, position, key FROM document_chunks WHERE memory_id = ? AND NOT stale ORDER BY id",
            (memory_id,),
        ).fetchone()
        return Place(*row) if row else None

    def _select(self, condition: str, *values: object) -> list[Document]:
        rows = self._vault.connection.execute(f"SELECT {_COLUMNS} FROM documents {condition}", values)
        return [
            Document(*(*row[:7], bool(row[7]), row[8], tuple(json.loads(row[9])), tuple(json.loads(row[10]))))
            for row in rows
        ]


def new_document(path: Path, kind: str, digest: str, *, owned: Sequence[str], owners: Sequence[str]) -> Document:
    """The record of the file at `path`, nothing of it stored yet."""
    about = path.stat()
    written = datetime.fromtimestamp(max(about.st_mtime, 0), UTC).isoformat(timespec="seconds")
    name = _name(path)
    identity = _digest(f"{name}\x00{digest}")[:32]
    return Document(
        identity, name, kind, about.st_size, written, digest, 0, False, utc_now(), tuple(owned), tuple(owners)
    )


def document_id(part: str) -> str:
    """The id of the document of a memory, from its `MemoryItem.document`."""
    return part.partition("/")[0]


def _name(path: Path) -> str:
    """The whole path as text, also if it is not Unicode."""
    return str(path.absolute()).encode("utf-8", "backslashreplace").decode()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
