"""What a fleet and a device hand each other before they are connected: an invitation one way, a join request back.

An invitation is a file that the owner gets by a channel she trusts (she compares its fingerprint): where the server
is, which certificate authority its TLS certificate comes from, whom the fleet belongs to (`protocol.fleet_trust`) and
what the fleet promises about privacy. A join request goes back: the device's identity and the public key with which
its connection will be authenticated, signed by the identity. Neither holds a secret.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from pydantic import Field

from protocol.errors import PenchantError, ProtocolError
from protocol.fleet_trust import Invitation
from protocol.keys import SIGNATURE_BYTES, SigningKey, verify
from protocol.messages import Key32, Message, Name

ROSTER_PATH = "/penchant/roster"  # where a fleet's server offers the signed list of members
REQUEST_PREFIX = "penchant-join-1:"
MAXIMUM_FILE_BYTES = 64 * 1024
REQUEST_LABEL = b"penchant/JoinRequest/1\0"


@dataclass(frozen=True)
class PrivacyPromise:
    """What the fleet means to spend in all: user-level `epsilon` at `delta`, in rounds of `smallest_cohort` or more.

    A device does not rely on it: its own ledger refuses whatever exceeds its owner's settings.
    """

    epsilon: float
    delta: float
    smallest_cohort: int


@dataclass(frozen=True)
class FleetInvitation:
    """`address` is host:port of the server; `ca_certificate` PEM."""

    trust: Invitation
    address: str
    ca_certificate: str
    promise: PrivacyPromise

    @property
    def fingerprint(self) -> str:
        """Four groups of four characters that name this very invitation, for comparing by telephone."""
        digest = base64.b32encode(hashlib.sha256(self.to_bytes()).digest()).decode("ascii").lower()
        return " ".join(digest[start : start + 4] for start in range(0, 16, 4))

    def to_bytes(self) -> bytes:
        """The file: JSON."""
        fields: dict[str, Any] = {
            "penchant-invitation": 1,
            "fleet_id": self.trust.fleet_id,
            "authority_key": self.trust.authority_key.hex(),
            "address": self.address,
            "ca_certificate": self.ca_certificate,
            "promise": asdict(self.promise),
        }
        return json.dumps(fields, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> FleetInvitation:
        """Parse an invitation file. PenchantError if it is none."""
        try:
            if len(data) > MAXIMUM_FILE_BYTES:
                raise ValueError("too large")
            fields = json.loads(data)
            if fields["penchant-invitation"] != 1:
                raise ValueError("another version")
            load_pem_x509_certificate(fields["ca_certificate"].encode("ascii"))
            promise = fields["promise"]
            return cls(
                trust=Invitation(fleet_id=fields["fleet_id"], authority_key=bytes.fromhex(fields["authority_key"])),
                address=str(fields["address"]),
                ca_certificate=fields["ca_certificate"],
                promise=PrivacyPromise(
                    float(promise["epsilon"]), float(promise["delta"]), int(promise["smallest_cohort"])
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PenchantError("this is not a fleet's invitation: ask the fleet for the file again") from None


class JoinRequest(Message):
    """A device that asks to be enrolled. `node_key`: PEM of the P-384 key that authenticates its connection."""

    fleet_id: Name
    identity: Key32
    node_key: Annotated[bytes, Field(min_length=1, max_length=1024)]

    def signed(self, identity: SigningKey) -> str:
        """The request as one line of text, signed with `identity`."""
        body = self.to_bytes()
        return REQUEST_PREFIX + base64.b64encode(identity.sign(REQUEST_LABEL + body) + body).decode("ascii") + "\n"

    @classmethod
    def read(cls, text: str, fleet_id: str) -> JoinRequest:
        """The request in a file's text. PenchantError unless it is for this fleet, signed by the identity it names,
        and carries a P-384 key."""
        if len(text) > MAXIMUM_FILE_BYTES or not text.startswith(REQUEST_PREFIX):
            raise PenchantError("this is not a join request: let the device write a new one with penchant join")
        try:
            data = base64.b64decode(text.strip().removeprefix(REQUEST_PREFIX), validate=True)
            signature, body = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
            request = cls.from_bytes(body)
            verify(request.identity, REQUEST_LABEL + body, signature)
            key = load_pem_public_key(request.node_key)
        except (ValueError, ProtocolError, UnsupportedAlgorithm):
            raise PenchantError("the join request is damaged or not signed by its device: ask for a new one") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise PenchantError("the join request carries a key of another kind than P-384: ask for a new one")
        if request.fleet_id != fleet_id:
            raise PenchantError(f"the join request is for the fleet {request.fleet_id}, not for {fleet_id}")
        return request
