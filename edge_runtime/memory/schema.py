"""The tables of memory, in the order in which a file gets them (a step never changes once it has landed)."""

from __future__ import annotations

from typing import Final

STEPS: Final = (
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
    "ALTER TABLE memories ADD COLUMN kind TEXT NOT NULL DEFAULT 'statement'",
    "ALTER TABLE memories ADD COLUMN speaker TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE memories ADD COLUMN document TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE memories ADD COLUMN position INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE memories ADD COLUMN valid_until TEXT",
    # The memory whose claim ended this one's validity; NULL if the owner ended it or it still holds.
    "ALTER TABLE memories ADD COLUMN closed_by INTEGER",
    # 0: its claims have not been read yet (a file from before there were claims).
    "ALTER TABLE memories ADD COLUMN claims_read INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX memories_by_document ON memories (document, position)",
    "CREATE TRIGGER memory_reindexed AFTER UPDATE OF text ON memories BEGIN "
    "INSERT INTO memory_index (memory_index, rowid, text, cue) "
    "VALUES ('delete', old.id, old.text, old.cue); "
    "INSERT INTO memory_index (rowid, text, cue) VALUES (new.id, new.text, new.cue); END",
    "CREATE TABLE memory_claims (memory_id INTEGER NOT NULL REFERENCES memories (id) ON DELETE CASCADE, "
    "subject TEXT NOT NULL, attribute TEXT NOT NULL, value TEXT NOT NULL, polarity INTEGER NOT NULL, "
    "single INTEGER NOT NULL, temporal TEXT NOT NULL)",
    "CREATE INDEX memory_claims_by_memory ON memory_claims (memory_id)",
    "CREATE INDEX memory_claims_by_topic ON memory_claims (subject, attribute, value)",
    "CREATE INDEX memories_unread ON memories (id) WHERE NOT claims_read",
)
