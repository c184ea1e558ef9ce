"""What a person's device remembers: dated statements and passages in the encrypted file, found again by words, by
meaning, by who said it and by date.

A memory is something its owner said, wrote or brought in, never what a model said and never a duplicate: the same text
and cue (up to case, spacing and Unicode form) is one memory, whose first date stands. `cue` is what the
statement answered, if anything; it is searched too. What a later statement contradicts is not deleted: it gets an end
(validity.py).

A write is on disk when the call returns. Deleting removes the row, its index entries, its vector and its claims, and
overwrites them in the file; the rest of a forget (log, key, all that was derived) is edge_runtime/forgetting.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.memory.ranking import RANKERS, RELEVANCE_FLOOR
from edge_runtime.memory.schema import STEPS
from edge_runtime.memory.search import Request, search
from edge_runtime.memory.statements import (
    KINDS,
    MemoryItem,
    Recalled,
    Statement,
    checked,
    checked_text,
    content_digest,
    embedded_text,
    iso_date,
    statement_digest,
    utc_now,
)
from edge_runtime.memory.table import MemoryTable
from edge_runtime.memory.validity import read_claims, read_new_claims, settle, touched_by
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

_COLUMNS = "id, text, cue, said_at, source, recorded_at, kind, speaker, document, position, valid_until"


class TextEmbedder(Protocol):
    """Anything that turns texts into unit vectors of one length."""

    @property
    def dimension(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class Memory:
    """The memories of one device. `embedder` is used only when something new is remembered or the dense
    ranking is asked for."""

    def __init__(self, vault: Vault, embedder: TextEmbedder) -> None:
        self._vault, self._embedder = vault, embedder
        self._table = MemoryTable(vault)
        vault.migrate("memory", STEPS)

    def remember(self, text: str, *, cue: str = "", said_at: str | None = None, source: str = "me") -> MemoryItem:
        """Stores one statement and returns it once it is on disk; an equal one that is already there is
        returned unchanged."""
        return self.remember_many([Statement(text, cue, said_at, source)])[0]

    def remember_many(self, statements: Iterable[Statement]) -> list[MemoryItem]:
        """Stores all or none, embedding what is new in one batch; one item per statement, in order.

        What was true once and is said again after its validity ended is a new memory.
        """
        wanted = [checked(statement) for statement in statements]
        digests = [self._digest(statement) for statement in wanted]
        fresh: dict[bytes, Statement] = {}
        for digest, statement in zip(digests, wanted, strict=True):
            if digest not in fresh and self._find(digest) is None:
                fresh[digest] = statement
        vectors = self._embed([embedded_text(statement.text, statement.cue) for statement in fresh.values()])
        written = []
        with self._vault.transaction() as connection:
            changed = False
            for (digest, new), vector in zip(fresh.items(), vectors, strict=True):
                cursor = connection.execute(
                    "INSERT OR IGNORE INTO memories "
                    "(digest, text, cue, said_at, source, recorded_at, kind, speaker, document, position, "
                    "claims_read) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(digest, new.text, new.cue, new.said_at, new.source, utc_now(), new.kind, new.speaker),
                        *(new.document, new.position, new.kind == "passage"),
                    ),
                )
                item = self._find(digest)
                if cursor.rowcount and item:  # no row: another process remembered the same in between
                    self._write_vector(item.id, vector)
                    written.append(item.id)
            if written:
                changed = read_new_claims(self._vault)
            items = [self._find(digest) for digest in digests]
        if changed:
            self._table.clear()
        else:
            self._table.add(written)
        return [item for item in items if item is not None]

    def recall(
        self,
        query: str,
        *,
        k: int = 5,
        as_of: str | None = None,
        now: str | None = None,
        rankers: Sequence[str] = RANKERS,
        floor: float = RELEVANCE_FLOOR,
        kinds: Sequence[str] = KINDS,
    ) -> list[Recalled]:
        """The at most `k` memories that matter for `query`, best first; fewer, or none, if fewer are
        relevant.

        With `as_of`, what was said by that day and still held; without, what holds on the day `now` (default: today,
        or `as_of`), and to questions about the past also what no longer does. Relevant is what reaches `floor`
        (ranking.py); recency only orders those, unless it is the only one of `rankers`: then all memories are ordered
        by date.
        """
        if k < 1 or not rankers or not set(rankers) <= set(RANKERS):
            raise PenchantError(f"recall needs k >= 1 and rankers out of {', '.join(RANKERS)}.")
        if not kinds or not set(kinds) <= set(KINDS):
            raise PenchantError(f"recall needs kinds out of {', '.join(KINDS)}.")
        last_day = date.fromisoformat(iso_date(as_of)).toordinal() if as_of else None
        today = date.fromisoformat(iso_date(now) if now else iso_date(as_of)).toordinal()
        request = Request(query, k, today, last_day, frozenset(rankers), floor, frozenset(kinds))
        self._refresh("dense" in rankers and bool(query.strip()))
        found = search(self._vault, self._table, self._embed, request)
        items = self._items([one.memory_id for one in found])
        return [
            Recalled(items[one.memory_id], one.score, one.ranks, one.similarity)
            for one in found
            if one.memory_id in items  # else another process has just forgotten it
        ]

    def items(self, *, kinds: Sequence[str] = KINDS) -> list[MemoryItem]:
        """All memories of these kinds, oldest first."""
        marks = ", ".join("?" * len(kinds))
        rows = self._vault.connection.execute(
            f"SELECT {_COLUMNS} FROM memories WHERE kind IN ({marks}) ORDER BY said_at, id", tuple(kinds)
        )
        return [MemoryItem(*row) for row in rows]

    def item(self, item_id: int) -> MemoryItem:
        """The memory with this id; PenchantError if there is none."""
        row = self._vault.connection.execute(f"SELECT {_COLUMNS} FROM memories WHERE id = ?", (item_id,)).fetchone()
        if row is None:
            raise PenchantError(f"There is no memory {item_id}; `penchant recall` shows the ids.")
        return MemoryItem(*row)

    def __len__(self) -> int:
        return int(self._vault.connection.execute("SELECT count(*) FROM memories").fetchone()[0])

    def edit(self, item_id: int, text: str) -> MemoryItem:
        """Replaces the text of a memory, with its vector, index entries and claims; id, cue and dates stay.
        PenchantError if another memory says the same already."""
        old, text = self.item(item_id), checked_text(text)
        digest = statement_digest(
            Statement(text, old.cue, old.said_at, old.source, old.kind, old.speaker, old.document, old.position)
        )
        vector = self._embed([embedded_text(text, old.cue)])[0]
        with self._vault.transaction() as connection:
            same = self._find(digest)
            if same is not None and same.id != item_id:
                raise PenchantError(f"Memory {same.id} says that already; forget one of the two instead.")
            connection.execute("UPDATE memories SET text = ?, digest = ? WHERE id = ?", (text, digest, item_id))
            self._write_vector(item_id, vector)
            read_claims(self._vault, [item_id])
            item = self.item(item_id)
        self._table.clear()
        return item

    def supersede(self, old_id: int, at: str) -> MemoryItem:
        """Notes that a memory no longer holds from the day `at` (ISO date) on; it stays, for questions about the
        past."""
        day = iso_date(at)
        with self._vault.transaction() as connection:
            if day < self.item(old_id).said_at:
                raise PenchantError("A memory cannot end before it was said; give a later date.")
            connection.execute("UPDATE memories SET valid_until = ?, closed_by = NULL WHERE id = ?", (day, old_id))
            item = self.item(old_id)
        self._table.clear()
        return item

    def forget_traces(self, item_ids: Collection[int], is_trace: Callable[[str], bool]) -> int:
        """Removes these memories; how many there were. Others stay whatever they say: a word that a memory of the
        owner's still holds is no trace."""
        with self._vault.transaction():
            return self._delete(item_ids)

    def forget_all(self) -> int:
        """Removes every memory; how many there were."""
        with self._vault.transaction() as connection:
            for table in ("memory_claims", "memory_vectors"):
                connection.execute(f"DELETE FROM {table}")
            removed = int(connection.execute("DELETE FROM memories").rowcount)
            # merged segments too
            connection.execute("INSERT INTO memory_index (memory_index) VALUES ('delete-all')")
        self._table.clear()
        return removed

    def _delete(self, item_ids: Collection[int]) -> int:
        touched = touched_by(self._vault, item_ids) - set(item_ids)
        removed = 0
        for item_id in item_ids:  # its vector and claims go with it
            removed += self._vault.connection.execute("DELETE FROM memories WHERE id = ?", (item_id,)).rowcount
        settle(self._vault, touched)
        self._table.clear()
        return removed

    def _digest(self, statement: Statement) -> bytes:
        digest = statement_digest(statement)
        while (known := self._find(digest)) and known.valid_until and str(statement.said_at) >= known.valid_until:
            digest = content_digest(digest.hex(), known.valid_until)
        return digest

    def _find(self, digest: bytes) -> MemoryItem | None:
        row = self._vault.connection.execute(f"SELECT {_COLUMNS} FROM memories WHERE digest = ?", (digest,)).fetchone()
        return MemoryItem(*row) if row else None

    def _items(self, item_ids: Sequence[int]) -> dict[int, MemoryItem]:
        rows = self._vault.connection.execute(
            f"SELECT {_COLUMNS} FROM memories WHERE id IN (SELECT value FROM json_each(?))", (str(list(item_ids)),)
        )
        return {row[0]: MemoryItem(*row) for row in rows}

    def _refresh(self, dense: bool) -> None:
        """Brings the table up to date; the embedding model stays unloaded where nothing is to be embedded."""
        if not dense or self._vault.connection.execute("SELECT 1 FROM memories LIMIT 1").fetchone() is None:
            self._table.refresh()
            return
        dimension = self._embedder.dimension
        if not self._table.refresh(dimension):
            self._embed_missing(dimension)
            self._table.refresh(dimension)

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, self._embedder.dimension), np.float32)
        vectors = np.asarray(self._embedder.embed(texts), np.float32)
        if vectors.shape != (len(texts), self._embedder.dimension) or not np.isfinite(vectors).all():
            raise PenchantError(
                "The embedder returned no usable vectors; check the embedding model with `penchant model info`."
            )
        return vectors

    def _embed_missing(self, dimension: int) -> None:
        """Embeds again what carries a vector of another length: the file outlives a change of the embedding
        model."""
        rows = self._vault.connection.execute(
            "SELECT id, text, cue FROM memories LEFT JOIN memory_vectors ON memory_id = id "
            "WHERE length(vector) IS NOT ?",
            (4 * dimension,),
        ).fetchall()
        vectors = self._embed([embedded_text(text, cue) for _, text, cue in rows])
        with self._vault.transaction():
            for (item_id, _, _), vector in zip(rows, vectors, strict=True):
                self._write_vector(item_id, vector)
        self._table.clear()

    def _write_vector(self, item_id: int, vector: NDArray[np.float32]) -> None:
        self._vault.connection.execute(
            "INSERT OR REPLACE INTO memory_vectors VALUES (?, ?)", (item_id, vector.astype("<f4").tobytes())
        )
