"""What lets a server speak for its fleet: its key, and the authority's word for it and for who is a member.

On disk it is a folder of four files; only `server.key` is secret (32 raw bytes, readable by its owner alone). The
authority's own key is not among them: it can stay on another machine.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from protocol.errors import PenchantError
from protocol.fleet_trust import (
    FleetAuthority,
    Invitation,
    ReleaseStatement,
    RosterDocument,
    certified_server_key,
    open_document,
    sign_document,
)
from protocol.keys import SigningKey
from protocol.messages import AdvertiseRequest, RoundTask, SignedRelease

KEY_FILE, INVITATION_FILE, CERTIFICATE_FILE, ROSTER_FILE = "server.key", "invitation", "certificate", "roster"


@dataclass(frozen=True, repr=False)  # no secrets in logs
class ServerCredentials:
    """`certificate` and `roster` are documents signed by the authority of `invitation`; checked at construction."""

    invitation: Invitation
    key: SigningKey
    certificate: bytes
    roster: bytes

    def __post_init__(self) -> None:
        if certified_server_key(self.invitation, self.certificate, time.time()) != self.key.public_bytes:
            raise PenchantError("the server's certificate names another key: let the authority certify this one")
        _ = self._members

    @staticmethod
    def issue(authority: FleetAuthority, members: frozenset[bytes], serial: int = 1) -> ServerCredentials:
        """Fresh server credentials straight from an authority that is at hand (a fleet in one process)."""
        key = SigningKey.generate()
        certificate, roster = authority.certify(key.public_bytes), authority.enrol(members, serial)
        return ServerCredentials(authority.invitation, key, certificate, roster)

    @property
    def fleet_id(self) -> str:
        """The fleet's name."""
        return self.invitation.fleet_id

    @property
    def serial(self) -> int:
        """Of the members' list."""
        return self._members.serial

    @property
    def members(self) -> frozenset[bytes]:
        """Identities of the enrolled devices."""
        return frozenset(self._members.members)

    @cached_property
    def _members(self) -> RosterDocument:
        return open_document(RosterDocument, self.roster, self.invitation.authority_key, self.fleet_id)

    def sign_task(self, task: RoundTask) -> AdvertiseRequest:
        """The request that opens this task on a device; the same bytes every time."""
        return AdvertiseRequest(certificate=self.certificate, task=sign_document(task, self.key))

    def sign_release(self, statement: ReleaseStatement, data: bytes) -> SignedRelease:
        """An artefact as devices accept it."""
        return SignedRelease(statement=sign_document(statement, self.key), data=data)

    def save(self, folder: Path) -> None:
        """Write the four files into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        public = {INVITATION_FILE: self.invitation.to_bytes(), CERTIFICATE_FILE: self.certificate}
        for name, data in {**public, ROSTER_FILE: self.roster}.items():
            (folder / name).write_bytes(data)
        with open(os.open(folder / KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(self.key.private_bytes)

    @staticmethod
    def load(folder: Path) -> ServerCredentials:
        """Read what `save` wrote. PenchantError if a file is missing or the chain of signatures does not hold."""
        names = (INVITATION_FILE, KEY_FILE, CERTIFICATE_FILE, ROSTER_FILE)
        try:
            invitation, key, certificate, roster = ((folder / name).read_bytes() for name in names)
        except OSError as error:
            raise PenchantError(f"{folder} does not hold a server's credentials ({', '.join(names)})") from error
        fleet = Invitation.from_bytes(invitation)
        return ServerCredentials(fleet, SigningKey.from_private_bytes(key), certificate, roster)
