"""Talk to one device of a LocalGrid directly, as any server could."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from protocol.fleet_trust import ReleaseStatement, sign_document
from protocol.messages import AdvertiseRequest, RoundTask, SetupReply, SetupRequest, SignedRelease
from protocol.messages import Message as WireMessage
from server.transport import FIELD, MESSAGE_TYPES, RECORD, read_bytes
from simulations.experiments.local_grid import FIRST_DEVICE_NODE_ID, LocalGrid
from tests.fleet_help import AUTHORITY, CERTIFICATE, SERVER_KEY


def ask_device(grid: LocalGrid, stage: str, partition: int, request: WireMessage | bytes) -> bytes:
    """Send one request to one device and return its reply's bytes."""
    data = request if isinstance(request, bytes) else request.to_bytes()
    message = Message(
        RecordDict({RECORD: ConfigRecord({FIELD: data})}),
        FIRST_DEVICE_NODE_ID + partition,
        MESSAGE_TYPES[stage],
    )
    (reply,) = grid.send_and_receive([message])
    return read_bytes(reply)


def signed_task(task: RoundTask) -> AdvertiseRequest:
    """The request that opens the task on a device of the test fleet."""
    return AdvertiseRequest(certificate=CERTIFICATE, task=sign_document(task, SERVER_KEY))


def signed_release(name: str, data: bytes, base_sha256: str, **changes: Any) -> SignedRelease:
    """An artefact as the test fleet's server signs it."""
    fields = {
        "fleet_id": AUTHORITY.fleet_id, "name": name, "sha256": sha256(data).hexdigest(), "run_id": "r", "round": 0,
        "epsilon": None, "delta": 1e-5, "base_sha256": base_sha256, **changes,
    }  # fmt: skip
    return SignedRelease(statement=sign_document(ReleaseStatement(**fields), SERVER_KEY), data=data)


def share_artefacts(grid: LocalGrid, people: int, plan: Mapping[str, Any]) -> dict[str, str]:
    """Give the plan's artefacts to all devices; returns {role: digest}."""
    digests = {role: sha256(data).hexdigest() for role, data in plan["artefacts"].items()}
    releases = tuple(signed_release(role, data, plan["base_sha256"]) for role, data in plan["artefacts"].items())
    request = SetupRequest(certificate=CERTIFICATE, challenge=bytes(32), releases=releases)
    for partition in range(people):
        held = SetupReply.from_bytes(ask_device(grid, "setup", partition, request)).artefacts
        assert set(digests.values()) <= set(held)
    return digests
