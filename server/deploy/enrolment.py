"""`fleet enrol`: join requests in, a new signed list of members out.

Every change gets the next serial number; devices and the server never go back to a lower one. The authority's key is
read here and nowhere else, so it may be kept on another machine and brought along for this command.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from edge_runtime.store.private_files import replace_private
from protocol.errors import PenchantError
from protocol.invitation import JoinRequest
from server.deploy.folder import FleetConfig, FleetFolder


@dataclass(frozen=True)
class Member:
    """One enrolled device: identity (hex), connection key (PEM), when it was enrolled."""

    identity: str
    node_key: str
    enrolled: str


@dataclass(frozen=True)
class Members:
    """The list of members; `serial` counts its versions."""

    serial: int
    members: tuple[Member, ...]


def read_members(folder: FleetFolder) -> Members:
    """Who is enrolled. PenchantError if the file is damaged."""
    try:
        fields = json.loads(folder.read(folder.members))
        return Members(int(fields["serial"]), tuple(Member(**entry) for entry in fields["members"]))
    except (ValueError, KeyError, TypeError):
        raise PenchantError(f"{folder.members} is damaged: restore it from a copy") from None


def enrol_requests(folder: FleetFolder, config: FleetConfig, requests: Sequence[Path]) -> list[Member]:
    """Enrol the devices whose join requests these files hold; returns the new ones. All or none of them."""
    held = {member.identity: member for member in read_members(folder).members}
    fresh: list[Member] = []
    for path in requests:
        try:
            text = path.read_text("ascii")
        except (OSError, UnicodeDecodeError):
            raise PenchantError(f"{path} is no join request that can be read; nobody was enrolled") from None
        try:
            request = JoinRequest.read(text, config.name)
        except PenchantError as error:
            raise PenchantError(f"{path}: {error}; nobody was enrolled") from None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        member = Member(request.identity.hex(), request.node_key.decode("ascii"), now)
        known = held.get(member.identity)
        if known is None or known.node_key != member.node_key:
            fresh.append(member)
            held[member.identity] = member
    keys = [member.node_key for member in held.values()]
    if len(set(keys)) != len(keys):
        raise PenchantError("two devices show the same connection key: ask one for a new request; nobody was enrolled")
    if fresh:
        _write(folder, config, held.values())
    return fresh


def remove_members(folder: FleetFolder, config: FleetConfig, prefixes: Sequence[str]) -> list[Member]:
    """Take devices off the list; each is named by its identity's first 8 or more hex digits. Returns the removed."""
    members = read_members(folder).members
    gone: list[Member] = []
    for prefix in prefixes:
        found = [member for member in members if member.identity.startswith(prefix.lower())]
        if len(prefix) < 8 or len(found) != 1:
            raise PenchantError(f"{prefix!r} names no single member: give 8 or more digits of its identity")
        gone += found
    if gone:
        _write(folder, config, [member for member in members if member not in gone])
    return gone


def _write(folder: FleetFolder, config: FleetConfig, members: Iterable[Member]) -> None:
    everybody = sorted(members, key=lambda member: member.identity)
    serial = read_members(folder).serial + 1
    roster = folder.authority(config.name).enrol([bytes.fromhex(member.identity) for member in everybody], serial)
    # The list first: a server that sees the new roster must be able to let its members in.
    fields = {"serial": serial, "members": [asdict(member) for member in everybody]}
    replace_private(folder.members, json.dumps(fields, indent=1).encode())
    replace_private(folder.roster, roster)
