"""Artefacts that a device holds: frames, shared adapters and bases, by SHA-256, in its vault.

The server sends each only to devices that do not hold it yet. An artefact is public to the fleet; it is kept
in the vault because everything on the device is, and its digest is checked when it arrives and again whenever
it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError, ProtocolError

PREFIX = "artefact/"


def keep_artefacts(vault: Vault, artefacts: Mapping[str, bytes]) -> None:
    """Store {SHA-256 in hex: bytes}. Raises ProtocolError, storing none, if any digest is wrong."""
    for digest, data in artefacts.items():
        if hashlib.sha256(data).hexdigest() != digest:
            raise ProtocolError("an artefact does not match its digest: the message was altered on the way")
    with vault.transaction():
        for digest, data in artefacts.items():
            if vault.get_blob(PREFIX + digest) != data:
                vault.put_blob(PREFIX + digest, data)


def held_digests(vault: Vault) -> tuple[str, ...]:
    """SHA-256 (hex) of every artefact held, sorted."""
    return tuple(name.removeprefix(PREFIX) for name in vault.blob_names(PREFIX))


def artefacts_for(vault: Vault, roles: Mapping[str, str]) -> dict[str, bytes]:
    """{role: digest} -> {role: bytes}. Raises PenchantError if one is missing or was altered in the vault."""
    found: dict[str, bytes] = {}
    for role, digest in roles.items():
        data = vault.get_blob(PREFIX + digest)
        if data is None:
            raise PenchantError(f"this device does not hold the {role!r} artefact {digest[:12]}: run the setup stage")
        if hashlib.sha256(data).hexdigest() != digest:
            raise PenchantError(f"the {role!r} artefact {digest[:12]} was altered on this device: delete it and set up")
        found[role] = data
    return found
