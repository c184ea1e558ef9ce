"""Who may speak for a fleet: two keys, and what they sign.

    authority (Ed25519, may be kept offline)   signs the members' list and the server's certificate
    server    (Ed25519)                        signs the tasks of rounds and statements of releases

A device pins an `Invitation` (fleet and authority's public key, by a channel that the server does not control) and
follows the chain from there. A signed document is `signature (64 bytes) | canonical document`; the signature covers a
label of the document's kind before it, so none can stand in for another, and it is checked before the document is
parsed. What is wrong (missing, foreign, changed, expired) is one error that quotes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self, TypeVar

from pydantic import Field, model_validator

from protocol.errors import ProtocolError
from protocol.keys import SIGNATURE_BYTES, SigningKey, verify_once
from protocol.messages import MAXIMUM_COHORT, MIB, Digest, Finite, Key32, Message, Name, RoundTask

Serial = Annotated[int, Field(ge=1, lt=1 << 63)]
DigestOrNone = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


class Invitation(Message):
    """What a device must know to join: the fleet's name and its authority's public key."""

    fleet_id: Name
    authority_key: Key32


class ServerCertificate(Message):
    """The authority's word that `server_key` speaks for the fleet until `not_after` (seconds since 1970; None: until
    the authority certifies no more)."""

    fleet_id: Name
    server_key: Key32
    not_after: Annotated[int, Field(ge=0)] | None = None


class RosterDocument(Message):
    """The authority's list of members (Ed25519 identities, ascending). A list with a lower `serial` than one seen is
    out of date."""

    maximum_bytes: ClassVar[int] = 4 * MIB
    fleet_id: Name
    serial: Serial
    members: Annotated[tuple[Key32, ...], Field(max_length=MAXIMUM_COHORT, strict=False)]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if any(one >= other for one, other in zip(self.members, self.members[1:], strict=False)):
            raise ValueError("members are not ascending without duplicates")
        return self


class ReleaseStatement(Message):
    """The server's word on one artefact or release: which bytes, from which round, on which base and frame, and what
    the fleet had spent by then (`epsilon` at `delta`; None: no guarantee)."""

    fleet_id: Name
    name: Name
    sha256: Digest
    run_id: Name
    round: Annotated[int, Field(ge=0, lt=1 << 31)]
    epsilon: Annotated[Finite, Field(ge=0.0)] | None
    delta: Annotated[Finite, Field(gt=0.0, lt=1.0)]
    base_sha256: Digest
    frame_sha256: DigestOrNone = ""
    parent_sha256: DigestOrNone = ""


Document = TypeVar("Document", ServerCertificate, RosterDocument, ReleaseStatement, RoundTask)


def sign_document(
    document: ServerCertificate | RosterDocument | ReleaseStatement | RoundTask, key: SigningKey
) -> bytes:
    """The document with its signature before it."""
    body = document.to_bytes()
    return key.sign(_label(type(document)) + body) + body


def open_document(kind: type[Document], data: bytes, public_key: bytes, fleet_id: str) -> Document:
    """The document in `data` if `public_key` signed it as this kind and it names this fleet; else ProtocolError."""
    if len(data) > kind.maximum_bytes + SIGNATURE_BYTES:
        raise ProtocolError(f"{kind.__name__}: too large; nothing in it was read")
    signature, body = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
    try:
        verify_once(public_key, _label(kind) + body, signature)
    except ProtocolError:
        raise ProtocolError(f"{kind.__name__}: not signed for this fleet; nothing in it was read") from None
    document = kind.from_bytes(body)
    if document.fleet_id != fleet_id:
        raise ProtocolError(f"{kind.__name__}: of another fleet")
    return document


def certified_server_key(invitation: Invitation, certificate: bytes, now: float) -> bytes:
    """The server's public key, if the authority certified it and that holds at `now` (seconds since 1970)."""
    document = open_document(ServerCertificate, certificate, invitation.authority_key, invitation.fleet_id)
    if document.not_after is not None and now > document.not_after:
        raise ProtocolError("ServerCertificate: expired; the fleet's authority must certify the server again")
    return document.server_key


def _label(kind: type[Message]) -> bytes:
    return f"penchant/{kind.__name__}/1".encode() + b"\0"


@dataclass(frozen=True, repr=False)  # no secrets in logs
class FleetAuthority:
    """The authority of one fleet: enrols devices and names the server."""

    fleet_id: str
    key: SigningKey

    @property
    def invitation(self) -> Invitation:
        """What devices pin."""
        return Invitation(fleet_id=self.fleet_id, authority_key=self.key.public_bytes)

    def certify(self, server_key: bytes, not_after: int | None = None) -> bytes:
        """A signed certificate for the server's public key."""
        certificate = ServerCertificate(fleet_id=self.fleet_id, server_key=server_key, not_after=not_after)
        return sign_document(certificate, self.key)

    def enrol(self, members: Iterable[bytes], serial: int = 1) -> bytes:
        """A signed members' list; every change of members needs a higher serial."""
        roster = RosterDocument(fleet_id=self.fleet_id, serial=serial, members=tuple(sorted(set(members))))
        return sign_document(roster, self.key)
