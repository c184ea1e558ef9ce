"""New keys for a fleet that goes on: the TLS certificate, and the key with which the server signs.

Devices believe the fleet's own authorities (TLS and Ed25519), so neither change asks anything of them. What a stolen
old server key could still do ends with its certificate's revocation: there is none, so a stolen key means a new fleet.
"""

from __future__ import annotations

from edge_runtime.store.private_files import replace_private
from protocol.keys import SigningKey
from server.credentials import ServerCredentials
from server.deploy.certificates import Pair, make_server_certificate
from server.deploy.folder import FleetConfig, FleetFolder
from server.deploy.init import parse_address


def renew_tls(folder: FleetFolder, config: FleetConfig) -> None:
    """A fresh TLS key and certificate for the address in the configuration."""
    authority = Pair(folder.read(folder.key("ca.pem")), folder.read(folder.key("ca.key")))
    host, _ = parse_address(config.address)
    fresh = make_server_certificate(authority, [host])
    replace_private(folder.key("tls.key"), fresh.key)
    replace_private(folder.key("tls.pem"), fresh.certificate)


def renew_server_key(folder: FleetFolder, config: FleetConfig) -> None:
    """A fresh key for tasks and releases, certified by the authority (whose key must be there)."""
    authority, key = folder.authority(config.name), SigningKey.generate()
    held = ServerCredentials.load(folder.credentials)
    ServerCredentials(held.invitation, key, authority.certify(key.public_bytes), held.roster).save(folder.credentials)
