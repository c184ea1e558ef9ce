"""A node is reached under an identity only if it can sign for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

import server.roll_call
from protocol.fleet_trust import FleetAuthority
from protocol.keys import SigningKey
from protocol.messages import SetupReply, SetupRequest, setup_transcript
from server.credentials import ServerCredentials
from server.roll_call import RollCall
from server.round import ignore_progress
from simulations.experiments.local_grid import FIRST_DEVICE_NODE_ID, LocalGrid

VICTIM, THIEF = SigningKey.generate(), SigningKey.generate()
STALE = bytes(32)  # the challenge of some earlier run


def roll_of(folder: Path, *, replayed: bool = False) -> RollCall:
    """Two nodes that both claim the victim's identity; the first, which is asked first, has another key."""
    app = ClientApp()

    @app.query("setup")
    def setup(message: Message, context: Context) -> Message:
        data = message.content.config_records["m"]["cbor"]
        assert isinstance(data, bytes)
        challenge = SetupRequest.from_bytes(data).challenge
        key, signed = VICTIM, setup_transcript(challenge, VICTIM.public_bytes)
        if context.node_config["partition-id"] == 0:
            key = VICTIM if replayed else THIEF
            signed = setup_transcript(STALE, VICTIM.public_bytes) if replayed else signed
        reply = SetupReply(identity=VICTIM.public_bytes, signature=key.sign(signed), roster_serial=1)
        return Message(RecordDict({"m": ConfigRecord({"cbor": reply.to_bytes()})}), reply_to=message)

    authority = FleetAuthority("fleet", SigningKey.generate())
    credentials = ServerCredentials.issue(authority, frozenset({VICTIM.public_bytes, b"b" * 32, b"c" * 32}))
    grid = LocalGrid(app, [folder / "0", folder / "1"])
    roll = RollCall(grid, credentials, "run", 5.0, ignore_progress)
    roll.call()
    return roll


@pytest.mark.parametrize("replayed", [False, True])
def test_who_cannot_sign_for_an_identity_does_not_get_its_place(tmp_path: Path, replayed: bool) -> None:
    roll = roll_of(tmp_path, replayed=replayed)
    assert roll.nodes == {VICTIM.public_bytes.hex(): FIRST_DEVICE_NODE_ID + 1}


def test_without_the_signature_the_first_claim_would_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.roll_call, "verify", lambda public, message, signature: None)
    assert roll_of(tmp_path).nodes == {VICTIM.public_bytes.hex(): FIRST_DEVICE_NODE_ID}
