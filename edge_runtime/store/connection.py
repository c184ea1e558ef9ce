"""A SQLCipher connection whose failures are one clear line: a full disk, a damaged page, a file in use.

SQLite names a failure only by its text (this binding has no error codes), and may notice it as late as in the
middle of a result; so cursors translate while rows are fetched too. Mistakes of the program (a wrong statement,
a broken constraint) pass unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlcipher3 import dbapi2 as sqlcipher

from protocol.errors import PenchantError

BUSY_SECONDS: Final = 20.0

_DAMAGED = "{path} is damaged; restore it from a backup or from a bundle (`penchant import`)."
# Texts of sqlite3_errstr, which are part of SQLite's stable interface.
_MEANINGS: Final = {
    "database or disk is full": "The disk is full: nothing of this step was stored. Free some space and try again.",
    "disk I/O error": "The disk is full or failing: nothing of this step was stored. Free some space and try again.",
    "database disk image is malformed": _DAMAGED,
    "file is not a database": _DAMAGED,
    # What SQLite says of an error without a message of its own: here a page that fails its authentication.
    "SQL logic error": _DAMAGED,
    "database is locked": "{path} is in use by another program; close it or try again.",
    "database table is locked": "{path} is in use by another program; close it or try again.",
    "attempt to write a readonly database": "{path} cannot be written; check its permissions.",
    "unable to open database file": "Cannot open {path}; check that the folder exists and is writable.",
    "Cannot operate on a closed database": "This device is closed or locked; open it again.",
}


class DamagedError(PenchantError):
    """A page does not decrypt and authenticate: the key is another one, or the file was changed."""


class Cursor(sqlcipher.Cursor):
    """A cursor that translates errors at every step."""

    path: Path

    def execute(self, *arguments: Any) -> Cursor:
        with clear_errors(self.path):
            super().execute(*arguments)
        return self

    def executemany(self, *arguments: Any) -> Cursor:
        with clear_errors(self.path):
            super().executemany(*arguments)
        return self

    def fetchone(self) -> Any:
        with clear_errors(self.path):
            return super().fetchone()

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        with clear_errors(self.path):
            return list(super().fetchmany(size))

    def fetchall(self) -> list[Any]:
        with clear_errors(self.path):
            return list(super().fetchall())

    def __next__(self) -> Any:
        try:  # not the context manager: this is called once a row
            return super().__next__()
        except (sqlcipher.Error, MemoryError) as error:
            raise _translated(error, self.path) from None


class Connection(sqlcipher.Connection):
    """A connection to the file at `path` that hands out translating cursors."""

    path: Path

    def cursor(self, *_: Any) -> Cursor:  # type: ignore[override]
        with clear_errors(self.path):
            cursor: Cursor = super().cursor(factory=Cursor)
        cursor.path = self.path
        return cursor

    def execute(self, *arguments: Any) -> Cursor:
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Cursor:
        return self.cursor().executemany(*arguments)


def connect(path: Path) -> Connection:
    """A connection in autocommit mode; PenchantError if the file cannot be opened.

    It may be used from several threads, one at a time: who shares it holds a lock.
    """
    with clear_errors(path):
        connection: Connection = sqlcipher.connect(
            str(path), timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, factory=Connection
        )  # type: ignore[assignment]
    connection.path = path
    return connection


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Failures of the file at `path` inside the block become PenchantErrors."""
    try:
        yield
    except (sqlcipher.Error, MemoryError) as error:
        raise _translated(error, path) from None


def _translated(error: Exception, path: Path) -> Exception:
    # SQLCipher reports a page that fails its authentication as out of memory once the first error was handed out.
    text = "database disk image is malformed" if isinstance(error, MemoryError) else str(error)
    for beginning, meaning in _MEANINGS.items():
        if text.startswith(beginning):
            return (DamagedError if meaning is _DAMAGED else PenchantError)(meaning.format(path=path))
    return error
