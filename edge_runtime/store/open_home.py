"""An open home: the hold on it (``home_lock``), its key (``keys``) and its encrypted file (``vault``), taken in this
order and given back in the other, so that the key cannot change between reading it and using it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.store.home_lock import HomeLock
from edge_runtime.store.keys import HomeKey, KeyMethod, key_exists, open_key
from edge_runtime.store.rotation import rotate_key, rotation_is_owed
from edge_runtime.store.vault import PAGE_BYTES, VAULT_FILE, Vault, WrongKeyError
from protocol.errors import PenchantError


@dataclass
class OpenHome:
    """What opening a home yields. `key` and `vault` must not outlive it."""

    home: Path
    lock: HomeLock
    key: HomeKey
    vault: Vault

    @classmethod
    def open(cls, home: Path, *, passphrase: str | None = None) -> OpenHome:
        """Opens the file under the key that fits, finishes a rotation that was interrupted and makes one that is
        owed; PenchantError if there is no device, the passphrase is wrong, or a file is damaged or gone."""
        if not key_exists(home):
            open_key(home)  # says what to do, and leaves no lock behind
        lock = HomeLock(home)
        try:
            key = open_key(home, passphrase=passphrase)
            vault = _opened_with(home, key)
        except BaseException:
            lock.release()
            raise
        opened = cls(home, lock, key, vault)
        try:
            if rotation_is_owed(vault):
                opened.rotate()
        except BaseException:
            opened.close()
            raise
        return opened

    def rotate(self) -> bool:
        """Encrypts the file under a fresh key (``rotation``); False, and owed, if it cannot be done now."""
        return rotate_key(self.lock, self.key, self.vault)

    def protect(self, method: KeyMethod, passphrase: str | None = None) -> None:
        """Keeps the key elsewhere or under another passphrase; the encrypted file stays as it is."""
        with self.lock.alone() as alone:
            if not alone:
                raise PenchantError(f"Another program has {self.home} open; close it and try again.")
            self.key.protect(method, passphrase)

    def close(self) -> None:
        """Closes the file, overwrites the key in RAM, lets go of the home; harmless if called twice."""
        self.vault.close()
        self.key.wipe()
        self.lock.release()


def _opened_with(home: Path, key: HomeKey) -> Vault:
    file = home / VAULT_FILE
    # SQLite would take what is shorter than a page for a new file
    if key.in_use and not (file.exists() and file.stat().st_size >= PAGE_BYTES):
        raise PenchantError(f"{file} is empty or gone; restore it from a backup or from a bundle (`penchant import`).")
    for candidate in key.candidates:
        try:
            vault = Vault.open(home, candidate)
        except WrongKeyError as error:
            failure = error
            continue
        try:
            key.settle(candidate)
        except BaseException:
            vault.close()
            raise
        return vault
    raise failure
