"""What a person's device remembers: dated statements in the encrypted file, found again by words, by meaning
and by date.

A memory is something its owner said or wrote, never what a model said and never a duplicate: the same text
and cue (up to case, spacing and Unicode form) is one memory, whose first date stands. `cue` is what the
statement answered, if anything; it is searched too.

A write is on disk when the call returns. Forgetting removes the row, its index entries and its vector,
overwrites them in the file, empties the write-ahead log, drops everything learnt from the owner's words
(`vault.LEARNT_PREFIX`) and returns a receipt without content.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.memory.ranking import (
    RANKER_WEIGHTS,
    fuse_ranks,
    match_expression,
    rank_by_similarity,
    ranks_by_age,
    ranks_in_order,
)
from edge_runtime.memory.statements import (
    MemoryItem,
    Recalled,
    Receipt,
    Statement,
    checked,
    content_digest,
    embedded_text,
    iso_date,
    utc_now,
)
from edge_runtime.memory.vectors import VectorCache
from edge_runtime.store.vault import LEARNT_PREFIX, Vault
from protocol.errors import PenchantError

# A memory is relevant if it shares a telling word with the query or its cosine reaches this floor. Measured
# with MiniLM on 18 questions and 14 statements: 95 % of unrelated pairs lie below 0.23, 17 of 18 answers
# above 0.34.
RELEVANCE_FLOOR: Final = 0.25
_POOL = 50  # candidates that each ranking hands to the fusion

_STEPS = (
    "CREATE TABLE memories (id INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE, "
    "text TEXT NOT NULL, cue TEXT NOT NULL, "
    "said_at TEXT NOT NULL, source TEXT NOT NULL, recorded_at TEXT NOT NULL)",
    "CREATE TABLE memory_vectors (memory_id INTEGER PRIMARY KEY REFERENCES memories (id) ON DELETE CASCADE, "
    "vector BLOB NOT NULL)",
    # The index keeps no copy of the text (content=) and removes the words of deleted rows at once
    # (secure-delete) instead of marking them.
    "CREATE VIRTUAL TABLE memory_index USING fts5 (text, cue, content = 'memories', content_rowid = 'id', "
    "tokenize = 'porter unicode61 remove_diacritics 2')",
    "INSERT INTO memory_index (memory_index, rank) VALUES ('secure-delete', 1)",
    "CREATE TRIGGER memory_indexed AFTER INSERT ON memories BEGIN "
    "INSERT INTO memory_index (rowid, text, cue) VALUES (new.id, new.text, new.cue); END",
    "CREATE TRIGGER memory_unindexed AFTER DELETE ON memories BEGIN "
    "INSERT INTO memory_index (memory_index, rowid, text, cue) "
    "VALUES ('delete', old.id, old.text, old.cue); END",
)
_COLUMNS = "id, text, cue, said_at, source, recorded_at"


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
        self._vectors = VectorCache(vault)
        vault.migrate("memory", _STEPS)

    def remember(self, text: str, *, cue: str = "", said_at: str | None = None, source: str = "me") -> MemoryItem:
        """Stores one statement and returns it once it is on disk; an equal one that is already there is
        returned unchanged."""
        return self.remember_many([Statement(text, cue, said_at, source)])[0]

    def remember_many(self, statements: Iterable[Statement]) -> list[MemoryItem]:
        """Stores all or none, embedding what is new in one batch; one item per statement, in order."""
        wanted = [checked(statement) for statement in statements]
        digests = [content_digest(statement.text, statement.cue) for statement in wanted]
        fresh: dict[bytes, Statement] = {}
        for digest, statement in zip(digests, wanted, strict=True):
            if digest not in fresh and self._find(digest) is None:
                fresh[digest] = statement
        vectors = self._embed([embedded_text(statement.text, statement.cue) for statement in fresh.values()])
        written = []
        with self._vault.transaction() as connection:
            for (digest, statement), vector in zip(fresh.items(), vectors, strict=True):
                cursor = connection.execute(
                    "INSERT OR IGNORE INTO memories (digest, text, cue, said_at, source, recorded_at) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (digest, statement.text, statement.cue, statement.said_at, statement.source, utc_now()),
                )
                item = self._find(digest)
                if cursor.rowcount and item:  # no row: another process remembered the same in between
                    self._write_vector(item.id, vector)
                    written.append((item, vector))
            items = [self._find(digest) for digest in digests]
        for item, vector in written:
            self._vectors.add(item.id, item.said_at, vector)
        return [item for item in items if item is not None]

    def recall(
        self,
        query: str,
        *,
        k: int = 5,
        as_of: str | None = None,
        now: str | None = None,
        rankers: Sequence[str] = ("bm25", "dense", "recency"),
        floor: float = RELEVANCE_FLOOR,
    ) -> list[Recalled]:
        """The at most `k` memories that matter for `query`, best first; fewer, or none, if fewer are
        relevant.

        `as_of` hides what was said after that date; `now` (default: `as_of`, else today) is the day ages are
        counted from. Relevant is what shares a telling word with the query or reaches the cosine `floor`;
        recency only orders those, unless it is the only one of `rankers`: then all memories are ordered by
        date.
        """
        if k < 1 or not rankers or not set(rankers) <= set(RANKER_WEIGHTS):
            raise PenchantError(f"recall needs k >= 1 and rankers out of {', '.join(RANKER_WEIGHTS)}.")
        last_day = iso_date(as_of) if as_of else date.max.isoformat()
        today = date.fromisoformat(iso_date(now) if now else iso_date(as_of)).toordinal()
        rankings: dict[str, dict[int, int]] = {}
        if "bm25" in rankers:
            rankings["bm25"] = ranks_in_order(self._matching(query, last_day))
        similarity: dict[int, float] = {}
        if "dense" in rankers and query.strip():
            ids, cosines = self._similar(query, last_day)
            rankings["dense"] = ranks_in_order(ids[rank_by_similarity(cosines, floor, _POOL)].tolist())
            shown = np.isin(ids, list(set().union(*rankings.values())))
            similarity = dict(zip(ids[shown].tolist(), cosines[shown].tolist(), strict=True))
        if "recency" in rankers:
            relevant = None if set(rankers) == {"recency"} else set().union(*rankings.values())
            rankings["recency"] = ranks_by_age(self._days(last_day, relevant), today)
        found = []
        for item_id, score in fuse_ranks(rankings)[:k]:
            ranks = {name: order[item_id] for name, order in rankings.items() if item_id in order}
            found.append(Recalled(self.item(item_id), score, ranks, similarity.get(item_id)))
        return found

    def items(self) -> list[MemoryItem]:
        """All memories, oldest statement first."""
        rows = self._vault.connection.execute(f"SELECT {_COLUMNS} FROM memories ORDER BY said_at, id")
        return [MemoryItem(*row) for row in rows]

    def item(self, item_id: int) -> MemoryItem:
        """The memory with this id; PenchantError if there is none."""
        row = self._vault.connection.execute(f"SELECT {_COLUMNS} FROM memories WHERE id = ?", (item_id,)).fetchone()
        if row is None:
            raise PenchantError(f"There is no memory {item_id}; `penchant recall` shows the ids.")
        return MemoryItem(*row)

    def __len__(self) -> int:
        return int(self._vault.connection.execute("SELECT count(*) FROM memories").fetchone()[0])

    def forget(self, item_id: int) -> Receipt:
        """Removes one memory and everything derived from it; PenchantError if it does not exist."""
        with self._vault.transaction() as connection:
            self.item(item_id)
            removed = {
                "vectors": connection.execute("DELETE FROM memory_vectors WHERE memory_id = ?", (item_id,)).rowcount,
                "memories": connection.execute("DELETE FROM memories WHERE id = ?", (item_id,)).rowcount,
                "learnt": self._drop_learnt(),
            }
        self._vectors.clear([item_id])
        return Receipt(f"memory {item_id}", utc_now(), removed, self._vault.sweep_log())

    def forget_all(self) -> Receipt:
        """Removes every memory and everything learnt from them. Keys, settings and the ledger stay."""
        with self._vault.transaction() as connection:
            removed = {
                table: connection.execute(f"DELETE FROM {table}").rowcount for table in ("memory_vectors", "memories")
            }
            # merged segments too
            connection.execute("INSERT INTO memory_index (memory_index) VALUES ('delete-all')")
            removed = {"vectors": removed.pop("memory_vectors"), **removed, "learnt": self._drop_learnt()}
        self._vectors.clear()
        return Receipt("everything", utc_now(), removed, self._vault.sweep_log())

    def _find(self, digest: bytes) -> MemoryItem | None:
        row = self._vault.connection.execute(f"SELECT {_COLUMNS} FROM memories WHERE digest = ?", (digest,)).fetchone()
        return MemoryItem(*row) if row else None

    def _matching(self, query: str, last_day: str) -> list[int]:
        """Ids by BM25, best first; a word in the statement counts twice as much as one in its cue."""
        expression = match_expression(query)
        if not expression:
            return []
        rows = self._vault.connection.execute(
            "SELECT id FROM memory_index JOIN memories ON id = memory_index.rowid "
            "WHERE memory_index MATCH ? AND said_at <= ? "
            "ORDER BY bm25(memory_index, 1.0, 0.5), id DESC LIMIT ?",
            (expression, last_day, _POOL),
        )
        return [int(item_id) for (item_id,) in rows]

    def _similar(self, query: str, last_day: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids (n,) of all memories said by `last_day` and their cosines (n,) with the query."""
        if self._vault.connection.execute("SELECT 1 FROM memories LIMIT 1").fetchone() is None:
            return np.empty(0, np.int64), np.empty(0, np.float32)  # and the embedding model stays unloaded
        vector = self._embed([query])[0]
        if self._vectors.refresh(len(vector)) and len(self._vectors.ids) < len(self):
            self._embed_missing(len(vector))
            self._vectors.refresh(len(vector))
        visible = self._vectors.days <= date.fromisoformat(last_day).toordinal()
        return self._vectors.ids[visible], (self._vectors.matrix @ vector)[visible]

    def _days(self, last_day: str, relevant: set[int] | None) -> dict[int, int]:
        """Ordinal of the day of every relevant (None: every) memory said by `last_day`."""
        chosen = "" if relevant is None else "AND id IN (SELECT value FROM json_each(?))"
        values = (last_day,) if relevant is None else (last_day, json.dumps(sorted(relevant)))
        rows = self._vault.connection.execute(f"SELECT id, said_at FROM memories WHERE said_at <= ? {chosen}", values)
        return {item_id: date.fromisoformat(day).toordinal() for item_id, day in rows}

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
        self._vectors.clear()

    def _write_vector(self, item_id: int, vector: NDArray[np.float32]) -> None:
        self._vault.connection.execute(
            "INSERT OR REPLACE INTO memory_vectors VALUES (?, ?)", (item_id, vector.astype("<f4").tobytes())
        )

    def _drop_learnt(self) -> int:
        return sum(self._vault.delete_blob(name) for name in self._vault.blob_names(LEARNT_PREFIX))
