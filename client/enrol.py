"""Enrolment: what a device believes about its fleet, pinned in its vault, so that a server cannot invent peers.

Pinned are the invitation (the fleet's name and its authority's public key, given by a channel that the server does
not control) and the newest signed list of members. A device takes part only with peers on that list, listens only to
a server that the authority has certified, and never goes back to an older list.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

from edge_runtime.device import Device
from protocol.errors import PenchantError, ProtocolError
from protocol.fleet_trust import Invitation, RosterDocument, certified_server_key, open_document

INVITATION_BLOB, ROSTER_BLOB = "fleet/invitation", "fleet/roster"


@dataclass(frozen=True)
class PinnedFleet:
    """The fleet this device belongs to, and the members' list it has."""

    invitation: Invitation
    serial: int
    members: frozenset[bytes]

    @property
    def fleet_id(self) -> str:
        """The fleet's name."""
        return self.invitation.fleet_id

    def server_key(self, certificate: bytes) -> bytes:
        """The certified server's public key. ProtocolError if the certificate is not this fleet's or has expired."""
        return certified_server_key(self.invitation, certificate, time.time())


def enrol(device: Device, invitation: Invitation, roster: bytes) -> PinnedFleet:
    """Join the fleet that `invitation` names, with its signed members' list; replaces an earlier enrolment.

    Raises PenchantError if the list is not signed by the invitation's authority, if this device is not on it, or if
    it is older than the one pinned for the same fleet.
    """
    fleet = _pinned(invitation.to_bytes(), roster)
    if device.identity.public_bytes not in fleet.members:
        raise PenchantError(
            "this device is not on the fleet roster: send its identity key to the fleet and enrol again"
        )
    held, same_fleet = (
        device.vault.get_blob(ROSTER_BLOB),
        device.vault.get_blob(INVITATION_BLOB) == invitation.to_bytes(),
    )
    if same_fleet and held != roster and pinned_fleet(device).serial >= fleet.serial:
        raise ProtocolError("the fleet roster is no newer than the one this device has: ask for the newest")
    with device.vault.transaction():
        device.vault.put_blob(INVITATION_BLOB, invitation.to_bytes())
        device.vault.put_blob(ROSTER_BLOB, roster)
    return fleet


def pinned_fleet(device: Device) -> PinnedFleet:
    """The fleet this device belongs to. Raises ProtocolError before enrolment."""
    invitation, roster = device.vault.get_blob(INVITATION_BLOB), device.vault.get_blob(ROSTER_BLOB)
    if invitation is None or roster is None:
        raise ProtocolError("this device is enrolled in no fleet: enrol it with the fleet's invitation first")
    return _pinned(invitation, roster)


@lru_cache(maxsize=16)
def _pinned(invitation: bytes, roster: bytes) -> PinnedFleet:
    """Cached: every device of an in-process fleet holds the same two."""
    fleet = Invitation.from_bytes(invitation)
    document = open_document(RosterDocument, roster, fleet.authority_key, fleet.fleet_id)
    return PinnedFleet(fleet, document.serial, frozenset(document.members))
