"""Enrolment: the fleet's roster, pinned on the device, so that a server cannot invent peers.

The roster is the list of all devices' Ed25519 identity keys, agreed when the fleet is set up (by a channel
that the server does not control) and kept in the vault. A device takes part only with peers that are on it.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge_runtime.device import Device
from protocol.errors import PenchantError

ROSTER_BLOB = "fleet/roster"
IDENTITY_BYTES = 32


def enrol(device: Device, roster: Iterable[bytes]) -> frozenset[bytes]:
    """Pin `roster` (32-byte Ed25519 public keys, this device's among them); replaces an earlier one.

    Raises PenchantError if a key has another length or this device's own key is missing.
    """
    members = frozenset(roster)
    if any(len(identity) != IDENTITY_BYTES for identity in members):
        raise PenchantError("the fleet roster holds something that is not a 32-byte identity key: ask for a new roster")
    if device.identity.public_bytes not in members:
        raise PenchantError(
            "this device is not on the fleet roster: send its identity key to the fleet and enrol again"
        )
    device.vault.put_blob(ROSTER_BLOB, b"".join(sorted(members)))
    return members


def pinned_roster(device: Device) -> frozenset[bytes]:
    """The identities this device accepts as peers. Raises PenchantError before enrolment."""
    data = device.vault.get_blob(ROSTER_BLOB)
    if data is None or len(data) % IDENTITY_BYTES:
        raise PenchantError("this device is enrolled in no fleet: enrol it with the fleet's roster first")
    return frozenset(data[start : start + IDENTITY_BYTES] for start in range(0, len(data), IDENTITY_BYTES))
