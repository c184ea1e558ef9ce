"""The one encrypted file of a device: SQLCipher 4 (AES-256-CBC pages with HMAC-SHA512), opened with a raw
32-byte key.

Everything a device keeps lies in `home/penchant.db`: memories, their index and vectors, the ledger, the
progress of rounds, adapters and weights as named blobs. Writes are acknowledged only when they are on disk
(write-ahead log, synchronous = FULL), deleted content is overwritten with zeros (secure_delete), and
temporary tables stay in RAM. A damaged page, a full disk or a locked file is a PenchantError (``connection``).

Rooms above own their tables: `vault.migrate("ledger", steps)` runs the steps that this file has not seen yet,
in order, in one transaction.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from sqlcipher3 import dbapi2 as sqlcipher

from edge_runtime.store.connection import Connection, DamagedError, connect
from protocol.errors import PenchantError

VAULT_FILE: Final = "penchant.db"
PAGE_BYTES: Final = 4096  # SQLCipher 4's default
# What was learnt from the owner's words (adapters, weights, profile) is stored under this prefix, so that
# forgetting can drop it.
LEARNT_PREFIX: Final = "personal/"

_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "secure_delete = ON",
    "temp_store = MEMORY",
    "foreign_keys = ON",
)
_VAULT_STEPS = ("CREATE TABLE blobs (name TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID",)


class WrongKeyError(PenchantError):
    """The key does not open the file."""


class Vault:
    """An open encrypted file. `connection` is in autocommit mode: group writes with `transaction()`."""

    def __init__(self, path: Path, connection: Connection) -> None:
        self.path = path
        self.connection = connection

    @classmethod
    def open(cls, home: Path, key: bytes | bytearray, *, create: bool = True, file: str = VAULT_FILE) -> Vault:
        """Opens `home/file` with the 32-byte `key`; a wrong key, a damaged or a missing file raises
        PenchantError."""
        path = home / file
        if len(key) != 32:
            raise PenchantError("The key of a device has 32 bytes.")
        if not create and not path.exists():
            raise PenchantError(f'No memory in {home}; `penchant remember "..."` starts one.')
        try:
            if not path.exists():
                home.mkdir(parents=True, exist_ok=True, mode=0o700)
                # the log and its index inherit this mode
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        except OSError:
            raise PenchantError(f"Cannot open {path}; check that the folder exists and is writable.") from None
        vault = cls(path, _unlocked(path, key))
        try:
            vault.migrate("vault", _VAULT_STEPS)
        except BaseException:
            vault.close()
            raise
        return vault

    def rekey(self, old: bytes | bytearray, new: bytes | bytearray) -> bool:
        """Encrypts every page, free ones too, under `new` and empties the log of frames under `old`; whether that
        was done. If not (a full disk), the file is as it was.

        Only for who has the device alone. It is one transaction: a program killed in it leaves a file that one of
        the two keys opens. Opening the file again at the end proves which.
        """
        with contextlib.suppress(PenchantError):
            self.connection.execute(f"PRAGMA rekey = \"x'{new.hex()}'\"")
            self.sweep_log()
        self.connection.close()
        try:
            self.connection = _unlocked(self.path, new)
        except WrongKeyError:
            self.connection = _unlocked(self.path, old)
            return False
        return True

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All or nothing, on disk when the block ends. Blocks inside blocks join the outermost one."""
        if self.connection.in_transaction:
            yield self.connection
            return
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
            self.connection.execute("COMMIT")
        except BaseException:  # Ctrl-C too
            # what a failing disk keeps us from rolling back, the next program to open the file rolls back
            with contextlib.suppress(PenchantError):
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
            raise

    def migrate(self, room: str, steps: Sequence[str]) -> None:
        """Brings the tables of `room` up to date: step i runs once per file, when the file's version of that
        room is i."""
        if self._version(room) == len(steps):  # the common case takes no write lock
            return
        with self.transaction() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS versions (room TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID"
            )
            version = self._version(room)
            if version > len(steps):
                raise PenchantError(
                    f"{self.path} was written by a newer version of penchant ({room} {version}); upgrade to open it."
                )
            for step in steps[version:]:
                connection.execute(step)
            connection.execute("INSERT OR REPLACE INTO versions VALUES (?, ?)", (room, len(steps)))

    def _version(self, room: str) -> int:
        try:
            row = self.connection.execute("SELECT version FROM versions WHERE room = ?", (room,)).fetchone()
        except sqlcipher.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return 0  # a new file
        return int(row[0]) if row else 0

    def put_blob(self, name: str, data: bytes) -> None:
        """Stores `data` under `name`, replacing what was there."""
        self.connection.execute("INSERT OR REPLACE INTO blobs VALUES (?, ?)", (name, data))

    def get_blob(self, name: str) -> bytes | None:
        """The bytes stored under `name`, or None."""
        row = self.connection.execute("SELECT data FROM blobs WHERE name = ?", (name,)).fetchone()
        return bytes(row[0]) if row else None

    def delete_blob(self, name: str) -> bool:
        """Removes `name`; whether it was there."""
        return self.connection.execute("DELETE FROM blobs WHERE name = ?", (name,)).rowcount > 0

    def blob_names(self, prefix: str = "") -> list[str]:
        """Names that start with `prefix`, sorted."""
        rows = self.connection.execute(
            "SELECT name FROM blobs WHERE substr(name, 1, ?) = ? ORDER BY name", (len(prefix), prefix)
        )
        return [str(name) for (name,) in rows]

    def has_table(self, name: str) -> bool:
        """Whether a table of this name exists (rooms above create theirs when they are first used)."""
        return (
            self.connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchone()
            is not None
        )

    def sweep_log(self) -> bool:
        """Moves the write-ahead log into the file and truncates it, so that no old page survives there; False
        if a reader prevented it."""
        busy, _, _ = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def close(self) -> None:
        """Closes the file; harmless if called twice."""
        self.connection.close()

    def __enter__(self) -> Vault:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unlocked(path: Path, key: bytes | bytearray) -> Connection:
    """A connection to `path` that has decrypted and authenticated its first page under `key`."""
    connection = connect(path)
    try:
        execute = connection.execute
        # else SQLCipher reports a wrong key on stderr, past our one clear line
        execute("PRAGMA cipher_log_level = NONE")
        # raw key: no password stretching, and hexadecimal cannot be quoted wrongly
        execute(f"PRAGMA key = \"x'{key.hex()}'\"")
        if not execute("PRAGMA cipher_version").fetchone():
            raise PenchantError("This SQLite has no encryption; install sqlcipher3-wheels.")
        try:
            execute("SELECT count(*) FROM sqlite_master")
        except DamagedError:
            raise WrongKeyError(f"Wrong key for {path}, or the file is damaged.") from None
        for pragma in _PRAGMAS:
            execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection
