"""Which bundles a device has written and read: so that a receipt can say how many copies are out of its reach, and so
that a bundle is taken in once."""

from __future__ import annotations

import json
from typing import Final, Literal

from edge_runtime.store.vault import Vault

_BLOBS: Final = {"written": "device/bundles-written", "read": "device/bundles-read"}

Direction = Literal["written", "read"]


def note_bundle(vault: Vault, direction: Direction, sha256: str) -> None:
    """Notes a bundle by the digest of its payload."""
    vault.put_blob(_BLOBS[direction], json.dumps([*noted_bundles(vault, direction), sha256]).encode())


def noted_bundles(vault: Vault, direction: Direction) -> list[str]:
    """The digests noted, oldest first."""
    return list(json.loads(vault.get_blob(_BLOBS[direction]) or b"[]"))


def drop_notes(vault: Vault) -> None:
    """Forgets both lists, on a copy that becomes another device."""
    for blob in _BLOBS.values():
        vault.delete_blob(blob)
