"""Joining a fleet: the device's connection key, its request to be enrolled, the members' list, the standing node.

Everything that must survive a restart lies in the device's vault: the invitation, the connection key (P-384, as
Flower asks for), the pinned members' list and the progress of rounds. A node that is started again goes on from there.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from client.enrol import PinnedFleet, enrol, pinned_fleet
from edge_runtime.device import Device
from protocol.errors import PenchantError, ProtocolError
from protocol.fleet_trust import RosterDocument, open_document
from protocol.invitation import ROSTER_PATH, FleetInvitation, JoinRequest

NODE_KEY_BLOB, INVITATION_FILE_BLOB = "fleet/node-key", "fleet/invitation-file"
FETCH_SECONDS = 15.0
Say = Callable[[str], None]


def read_invitation(path: Path) -> FleetInvitation:
    """The invitation in a file. PenchantError if it cannot be read or is none."""
    try:
        return FleetInvitation.from_bytes(path.read_bytes())
    except OSError as error:
        raise PenchantError(f"{path} cannot be read: {error.strerror}") from None


def node_key(device: Device) -> ec.EllipticCurvePrivateKey:
    """The key that authenticates this device's connection; drawn at first use."""
    with device.vault.transaction():
        data = device.vault.get_blob(NODE_KEY_BLOB)
        if data is None:
            fresh = ec.generate_private_key(ec.SECP384R1())
            data = fresh.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            device.vault.put_blob(NODE_KEY_BLOB, data)
    return cast(ec.EllipticCurvePrivateKey, load_der_private_key(data, None))


def keep_invitation(device: Device, invitation: FleetInvitation) -> None:
    """Remember the invitation, so that the node can be started without its file."""
    device.vault.put_blob(INVITATION_FILE_BLOB, invitation.to_bytes())


def kept_invitation(device: Device) -> FleetInvitation:
    """The invitation that this device accepted last. PenchantError if there is none."""
    data = device.vault.get_blob(INVITATION_FILE_BLOB)
    if data is None:
        raise PenchantError("this device has accepted no invitation yet: penchant join INVITATION")
    return FleetInvitation.from_bytes(data)


def join_request(device: Device, invitation: FleetInvitation) -> str:
    """One line of text for the fleet: who this device is and which key its connection will use."""
    public = node_key(device).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    request = JoinRequest(fleet_id=invitation.trust.fleet_id, identity=device.identity.public_bytes, node_key=public)
    return request.signed(device.identity)


def fetch_roster(invitation: FleetInvitation) -> bytes | None:
    """The fleet's signed members' list from its server (unchecked); None if the server cannot be reached now.

    PenchantError if somebody answers whose TLS certificate is not from the fleet's authority.
    """
    import httpx

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=invitation.ca_certificate)
    try:
        with (
            httpx.Client(verify=context, timeout=FETCH_SECONDS, trust_env=False) as client,
            client.stream("GET", f"https://{invitation.address}{ROSTER_PATH}") as response,
        ):
            if response.status_code != httpx.codes.OK:
                return None
            data = bytearray()
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > 2 * RosterDocument.maximum_bytes:
                    raise PenchantError("the server's list of members is too large; it was not read")
            return bytes(data)
    except httpx.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise PenchantError(
                f"{invitation.address} does not prove to be the fleet's server (TLS certificate); nothing was sent"
            ) from None
        return None


def enrolled_fleet(device: Device, invitation: FleetInvitation, roster: bytes | None) -> PinnedFleet | None:
    """The fleet that this device belongs to after taking in `roster` (None: nothing new); None if it is not a member.

    PenchantError if the list is not signed by the invitation's authority or is older than the one held.
    """
    try:
        held: PinnedFleet | None = pinned_fleet(device)
    except ProtocolError:
        held = None
    if held is not None and held.invitation != invitation.trust:
        raise PenchantError(f"this device belongs to another fleet ({held.fleet_id}); use another --home for this one")
    if roster is None:
        return held
    document = open_document(RosterDocument, roster, invitation.trust.authority_key, invitation.trust.fleet_id)
    if device.identity.public_bytes not in document.members:
        return None
    return enrol(device, invitation.trust, roster)


def serve(
    home: Path, invitation: FleetInvitation, key: ec.EllipticCurvePrivateKey, say: Say, stop: threading.Event
) -> None:
    """Be the fleet's node of the device in `home` until `stop` is set. Raises RefusedError if the key is unknown."""
    import client.app
    from client.supernode import SuperNode  # Flower: not for a device that only asks to be enrolled

    try:
        SuperNode(client.app.app, home, invitation.address, invitation.ca_certificate, key, say).run(stop)
    finally:
        client.app.close_devices()
