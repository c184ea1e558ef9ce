"""Evaluated prefixes on disk: encrypted, capped in size, and gone with one deleted key.

The state of 1,000 tokens is 23 MB on the default model and is the owner's text in another form. So each state is
one file, AES-256-GCM under a key of its own that lies in the vault: deleting the key destroys the state, whatever
becomes of the file. The associated data are the format's version and the state's cache key, so a file cannot be
passed off as another's. States are a convenience: a damaged, truncated or missing file is a miss and is removed, and
a full disk means no state. The least recently used ones make room.

Nobody can tell which memories a state was read from. So any forget drops them all.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

_STEPS: Final = (
    "CREATE TABLE states (cache_key BLOB PRIMARY KEY, file TEXT NOT NULL UNIQUE, secret BLOB NOT NULL, "
    "bytes INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID",
)
_VERSION: Final = b"penchant-state-1"
_NONCE_BYTES: Final = 12
_OVERHEAD: Final = _NONCE_BYTES + 16  # the nonce, and the tag of AES-GCM
_LARGEST: Final = (1 << 31) - 64  # what one call of AES-GCM takes


class StateStore:
    """States under `folder`, at most `capacity_bytes` of files; their keys and their order of use in `vault`."""

    def __init__(self, vault: Vault, folder: Path, capacity_bytes: int) -> None:
        if capacity_bytes < 0:
            raise PenchantError("the room for saved states must be at least 0 bytes")
        self._vault, self._folder, self._capacity = vault, folder, capacity_bytes
        vault.migrate("states", _STEPS)
        self._remove_strays()

    def __len__(self) -> int:
        return int(self._vault.connection.execute("SELECT count(*) FROM states").fetchone()[0])

    @property
    def bytes_held(self) -> int:
        """Bytes of all files."""
        return int(self._vault.connection.execute("SELECT coalesce(sum(bytes), 0) FROM states").fetchone()[0])

    def put(self, cache_key: bytes, state: bytes) -> bool:
        """Keep `state`; False if it is larger than the room there is, or cannot be written."""
        size = len(state) + _OVERHEAD
        if size > min(self._capacity, _LARGEST):
            return False
        self.drop(cache_key)
        self._make_room(self._capacity - size)
        secret, nonce, name = AESGCM.generate_key(256), secrets.token_bytes(_NONCE_BYTES), secrets.token_hex(16)
        if not self._write(name, nonce + AESGCM(secret).encrypt(nonce, state, _VERSION + cache_key)):
            return False
        self._vault.connection.execute(
            "INSERT INTO states SELECT ?, ?, ?, ?, coalesce(max(used), 0) + 1 FROM states",
            (cache_key, name, secret, size),
        )
        return True

    def get(self, cache_key: bytes) -> bytes | None:
        """The state kept under `cache_key`, or None."""
        row = self._vault.connection.execute(
            "SELECT file, secret FROM states WHERE cache_key = ?", (cache_key,)
        ).fetchone()
        if row is None:
            return None
        try:
            data = (self._folder / row[0]).read_bytes()
            state = AESGCM(row[1]).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _VERSION + cache_key)
        except (OSError, InvalidTag, ValueError):
            self.drop(cache_key)
            return None
        self._vault.connection.execute(
            "UPDATE states SET used = (SELECT max(used) + 1 FROM states) WHERE cache_key = ?", (cache_key,)
        )
        return state

    def drop(self, cache_key: bytes) -> bool:
        """Destroy one state; whether it was there."""
        return self._drop_where("cache_key = ?", cache_key) > 0

    def forget_traces(self, item_ids: Collection[int], is_trace: Callable[[str], bool]) -> int:
        """Destroy every state, whatever was forgotten; returns how many."""
        return self.forget_all()

    def forget_all(self) -> int:
        """Destroy every state; returns how many."""
        return self._drop_where("1")

    def _drop_where(self, condition: str, *values: object) -> int:
        """Delete keys first: without them the files are noise."""
        with self._vault.transaction() as connection:
            files = connection.execute(f"SELECT file FROM states WHERE {condition}", values).fetchall()
            connection.execute(f"DELETE FROM states WHERE {condition}", values)
        for (name,) in files:
            self._unlink(self._folder / name)
        return len(files)

    def _make_room(self, capacity: int) -> None:
        while self.bytes_held > capacity:
            (oldest,) = self._vault.connection.execute("SELECT cache_key FROM states ORDER BY used LIMIT 1").fetchone()
            self.drop(oldest)

    def _write(self, name: str, data: bytes) -> bool:
        temporary = self._folder / f"{name}.part"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
            temporary.replace(self._folder / name)
        except OSError:
            self._unlink(temporary)
            return False
        return True

    def _remove_strays(self) -> None:
        """Files that no key opens: of an interrupted write, or of a forget that could not remove them."""
        known = {name for (name,) in self._vault.connection.execute("SELECT file FROM states").fetchall()}
        try:
            strays = [path for path in self._folder.iterdir() if path.name not in known]
        except OSError:
            return
        for path in strays:
            self._unlink(path)

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return  # unreadable without its key; the next start tries again
