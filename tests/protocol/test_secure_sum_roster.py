"""A device refuses a roster that is not of its fleet, of this task, signed and in order."""

import dataclasses

import pytest

from protocol import secure_sum
from protocol.errors import ProtocolError
from protocol.keys import SigningKey
from protocol.messages import (
    ShareRequest,
)
from protocol.roster import advertisement_transcript
from protocol.secure_sum import ServerRound
from tests.protocol.secure_sum_fleet import SmallFleet, make_task


@pytest.fixture
def advertised():
    fleet = SmallFleet(make_task(6))
    return fleet, fleet.advertise()


def refuse_roster(fleet, entries, match, *, enrolled=None, minimum_roster=0):
    request = ShareRequest(task_digest=fleet.task.digest(), roster=tuple(entries))
    with pytest.raises(ProtocolError, match=match):
        secure_sum.share(fleet.states[0], request, fleet=enrolled or fleet.fleet, minimum_roster=minimum_roster)


def test_unsigned_or_changed_entry_is_refused(advertised):
    fleet, request = advertised
    entries = list(request.roster)
    entries[2] = entries[2].model_copy(update={"signature": bytes(64)})
    refuse_roster(fleet, entries, "signature is wrong")
    entries[2] = request.roster[2].model_copy(update={"masking_public": entries[3].sharing_public})
    refuse_roster(fleet, entries, "signature is wrong")


def test_duplicate_or_unordered_entry_is_refused(advertised):
    fleet, request = advertised
    entries = list(request.roster)
    refuse_roster(fleet, [entries[0], entries[0], *entries[1:5]], "ascending order")
    refuse_roster(fleet, [entries[1], entries[0], *entries[2:]], "ascending order")


def test_outsider_is_refused(advertised):
    fleet, request = advertised
    refuse_roster(fleet, request.roster, "not enrolled", enrolled=fleet.fleet[:-1])


def test_invented_peer_is_refused(advertised):
    fleet, request = advertised
    _, invented = secure_sum.advertise(fleet.task, SigningKey.generate())
    entries = sorted([*request.roster[:5], invented], key=lambda entry: entry.identity)
    refuse_roster(fleet, entries, "not enrolled")


def test_roster_for_another_task_is_refused(advertised):
    fleet, request = advertised
    key, other = fleet.keys[3], make_task(6, clip_norm=2.0)
    _, entry = secure_sum.advertise(other, key)
    entries = [*request.roster[:3], entry, *request.roster[4:]]
    refuse_roster(fleet, entries, "another task")
    # Relabelled for this task, the old signature does not fit.
    entries[3] = entry.model_copy(update={"task_digest": fleet.task.digest()})
    refuse_roster(fleet, entries, "signature is wrong")


def test_too_small_roster_is_refused(advertised):
    fleet, request = advertised
    refuse_roster(fleet, request.roster[:5], "asks for 6", minimum_roster=6)
    refuse_roster(fleet, request.roster[:1], "asks for 2")


def test_roster_larger_than_planned_is_refused(advertised):
    fleet, request = advertised
    state = dataclasses.replace(fleet.states[0], task=make_task(5))
    with pytest.raises(ProtocolError, match=r"another task|planned for 5"):
        secure_sum.share(state, request, fleet=None)


def test_roster_without_this_device_or_with_foreign_keys_is_refused(advertised):
    fleet, request = advertised
    refuse_roster(fleet, request.roster[1:], "not accepted a roster|not in")
    _, twin = secure_sum.advertise(fleet.task, fleet.keys[0])
    refuse_roster(fleet, [twin, *request.roster[1:]], "other keys for this device")


def test_two_devices_with_one_key_are_refused(advertised):
    fleet, request = advertised
    copied, thief = request.roster[1], fleet.keys[2]
    transcript = advertisement_transcript(
        fleet.task.digest(), thief.public_bytes, copied.masking_public, copied.sharing_public
    )
    stolen = copied.model_copy(update={"identity": thief.public_bytes, "signature": thief.sign(transcript)})
    refuse_roster(fleet, [*request.roster[:2], stolen, *request.roster[3:]], "same key")


def test_server_leaves_out_bad_advertisements():
    task = make_task(4)
    key = SigningKey.generate()
    _, reply = secure_sum.advertise(task, key)
    with pytest.raises(ProtocolError, match="signature"):
        ServerRound(task).add_advertisement(reply.model_copy(update={"signature": bytes(64)}))
    with pytest.raises(ProtocolError, match="not enrolled"):
        ServerRound(task, fleet=[]).add_advertisement(reply)
    server = ServerRound(task)
    server.add_advertisement(reply)
    server.add_advertisement(reply)  # a repeat changes nothing
    with pytest.raises(ProtocolError, match="two different sets"):
        server.add_advertisement(secure_sum.advertise(task, key)[1])
    with pytest.raises(ProtocolError, match="2 are needed"):
        server.close_advertise()
