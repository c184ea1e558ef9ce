"""Crypto-shredding: after every forget the whole file is encrypted under a fresh key and the old key destroyed.

A key per row would not do: the words of a row also lie in the full-text index, its meaning in the vectors, and
both would stay readable under the key of the file. Changing that key instead makes every page ever written
before unreadable at once, wherever a copy of it survives: frames of old logs, blocks that a flash disk has
remapped, snapshots and backups of the file. (A backup that holds ``key.json`` too, and whose passphrase is known, still
opens: a forget cannot reach it.) Re-encrypting 20,000 memories takes about half a second.

A killed program leaves both keys in ``key.json`` until the next start has seen which one opens the file. While
another program has the device open, the change is owed: noted in the file, within the transaction that forgets,
and made by the next program that opens the device alone.
"""

from __future__ import annotations

import shutil
from typing import Final

from edge_runtime.store.home_lock import HomeLock
from edge_runtime.store.keys import HomeKey
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

# Folders in a home that hold a copy for a moment (``edge_runtime.transfer``), under a key that is not on disk.
SCRATCH_PREFIX: Final = ".transfer-"

_OWED_BLOB: Final = "store/rotation-owed"


def owe_rotation(vault: Vault) -> None:
    """Notes that the key must change; to be called in the transaction that makes it necessary."""
    vault.put_blob(_OWED_BLOB, b"1")


def rotation_is_owed(vault: Vault) -> bool:
    """Whether the key must change as soon as somebody has the device alone."""
    return vault.get_blob(_OWED_BLOB) is not None


def rotate_key(lock: HomeLock, key: HomeKey, vault: Vault) -> bool:
    """Encrypts the file under a fresh key and destroys the old one; False, and owed, if another program has the
    device open or the disk is full."""
    if not rotation_is_owed(vault):
        owe_rotation(vault)
    with lock.alone() as alone:
        if not alone or len(key.candidates) > 1:  # two: settling failed before, the next start has to do it
            return False
        try:
            changed = _rotated(lock, key, vault)
        except PenchantError:  # a key file cannot be written; the file opens under one of the keys on disk
            return False
    if changed:
        vault.delete_blob(_OWED_BLOB)
    return changed


def _rotated(lock: HomeLock, key: HomeKey, vault: Vault) -> bool:
    for stray in lock.home.glob(f"{SCRATCH_PREFIX}*"):  # of a program killed while it exported or imported
        shutil.rmtree(stray, ignore_errors=True)
    (old,) = key.candidates
    new = key.draw_next()
    changed = vault.rekey(old, new)
    key.settle(new if changed else old)
    return changed
