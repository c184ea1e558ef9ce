"""Talk to one device of a LocalGrid directly, as any server could."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from protocol.messages import Message as WireMessage
from protocol.messages import SetupReply, SetupRequest
from server.transport import FIELD, MESSAGE_TYPES, RECORD, read_bytes
from simulations.local_grid import FIRST_DEVICE_NODE_ID, LocalGrid


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


def share_artefacts(grid: LocalGrid, people: int, plan: Mapping[str, Any]) -> dict[str, str]:
    """Give the plan's artefacts to all devices; returns {role: digest}."""
    digests = {role: sha256(data).hexdigest() for role, data in plan["artefacts"].items()}
    request = SetupRequest(artefacts={digests[role]: data for role, data in plan["artefacts"].items()})
    for partition in range(people):
        held = SetupReply.from_bytes(ask_device(grid, "setup", partition, request)).artefacts
        assert set(digests.values()) <= set(held)
    return digests
