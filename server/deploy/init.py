"""`fleet init`: keys, certificates, configuration and invitation of a new fleet, in one folder."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.store.private_files import create_private, make_private_folder
from protocol.errors import PenchantError
from protocol.fleet_trust import FleetAuthority
from protocol.invitation import FleetInvitation, PrivacyPromise
from protocol.keys import SigningKey
from server.credentials import ServerCredentials
from server.deploy.certificates import make_authority, make_server_certificate
from server.deploy.folder import FleetFolder, load

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

CONFIG = """\
# A fleet of Penchant; written by `penchant fleet init`. Everything in [run] is public: devices see it in every task.

[fleet]
name = "{fleet_id}"
address = "{address}"  # where devices reach this server; part of the invitation and of the TLS certificate

[server]
host = "127.0.0.1"  # `penchant fleet up --host` or this line opens the server to a network
port = {port}
dashboard-port = {dashboard_port}  # on loopback only; 0 for none
wait-for = {people}  # devices that must be connected before rounds begin
store = ""  # empty: SQLite in out/. Or postgresql://user@host/database; PENCHANT_FLEET_STORE overrides it

[run]  # choose these with `penchant fleet plan`
run-id = "{run_id}"
frame = ""  # file of the fleet's frame
rounds = {rounds}
noise-multiplier = {noise_multiplier}
delta = {delta}
epsilon-budget = {epsilon_budget}  # no round starts that would take the total above it
cohort-size = 0  # 0: everybody who is connected
stage-seconds = 900.0  # the deadline of each stage; whoever is later costs the round nothing
quorum = 1.0  # below 1: a stage closes as soon as this share of the cohort has answered
"""


@dataclass(frozen=True)
class FleetPlanned:
    """What `fleet init` is told. `people`: how many devices the fleet expects."""

    name: str
    address: str
    people: int = 8
    rounds: int = 5
    noise_multiplier: float = 1.0
    delta: float = 1e-5
    epsilon_budget: float = 8.0


def init_fleet(root: Path, planned: FleetPlanned) -> FleetInvitation:
    """Set up a fleet in `root`; PenchantError if there is one already. Returns its invitation."""
    host, port = parse_address(planned.address)
    if not NAME.fullmatch(planned.name):
        raise PenchantError("a fleet's name has letters, digits, '.', '_' and '-' only, 64 at most")
    if planned.people < 3:
        raise PenchantError("a fleet needs at least 3 people; below 20, noise drowns what they have in common")
    folder = FleetFolder(root)
    if folder.config.exists() or folder.keys.exists():
        raise PenchantError(f"{root} holds a fleet already: choose another folder, nothing was overwritten")
    fleet_id = f"{planned.name}.{secrets.token_hex(4)}"  # two fleets of one name are still two fleets
    for place in (folder.root, folder.keys, folder.out):
        make_private_folder(place)
    authority = FleetAuthority(fleet_id, SigningKey.generate())
    make_private_folder(folder.credentials)
    ServerCredentials.issue(authority, frozenset()).save(folder.credentials)
    tls_authority = make_authority(planned.name)
    tls = make_server_certificate(tls_authority, [host])
    invitation = FleetInvitation(
        trust=authority.invitation,
        address=planned.address,
        ca_certificate=tls_authority.certificate.decode("ascii"),
        promise=PrivacyPromise(planned.epsilon_budget, planned.delta, planned.people - planned.people // 3),
    )
    files = {
        folder.key("authority.key"): authority.key.private_bytes.hex().encode(),
        folder.key("ca.key"): tls_authority.key,
        folder.key("ca.pem"): tls_authority.certificate,
        folder.key("tls.key"): tls.key,
        folder.key("tls.pem"): tls.certificate,
        folder.key("dashboard.token"): secrets.token_urlsafe(24).encode(),
        folder.members: json.dumps({"serial": 1, "members": []}).encode(),
        folder.invitation: invitation.to_bytes(),
        folder.config: CONFIG.format(
            fleet_id=fleet_id,
            address=planned.address,
            port=port,
            dashboard_port=port + 1,
            people=planned.people,
            run_id=f"{planned.name}-1",
            rounds=planned.rounds,
            noise_multiplier=planned.noise_multiplier,
            delta=planned.delta,
            epsilon_budget=planned.epsilon_budget,
        ).encode(),
    }
    for path, data in files.items():
        create_private(path, data)
    load(root)
    return invitation


def parse_address(address: str) -> tuple[str, int]:
    """host and port of "host:port" ("[::1]:9092" for IPv6). PenchantError if it is none."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65535:
        raise PenchantError(f"--address {address!r} is not host:port, e.g. fleet.example.org:9092")
    return host.strip("[]"), int(port)
