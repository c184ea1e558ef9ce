"""The six stages of a round on a device: request bytes in, reply bytes out, everything else in the vault.

The server is believed as far as the fleet's authority vouches for it: `setup` and `advertise` follow the chain from
the key that this device has pinned, and the stages after them belong to the task that `advertise` accepted.

Each function answers a repeated request with the same bytes and refuses a changed one (`client.progress`).
The secure sum itself is `protocol.secure_sum`; here it meets the owner's rules, the training and the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from client.artefacts import Artefacts
from client.contribution import contribute
from client.enrol import PinnedFleet, enrol, pinned_fleet
from client.ledger import DeviceLedger
from client.participation import keep_or_drop, update_at
from client.progress import RoundProgress, StageResult
from client.work import LocalWork
from edge_runtime.device import Device
from protocol import secure_sum
from protocol.errors import PenchantError, ProtocolError
from protocol.fleet_trust import ReleaseStatement, open_document
from protocol.messages import (
    AdvertiseRequest,
    CollectRequest,
    ConfirmRequest,
    Message,
    RefusalReason,
    RoundTask,
    SetupReply,
    SetupRequest,
    ShareRequest,
    UnmaskRequest,
    setup_transcript,
)

AnyMessage = TypeVar("AnyMessage", bound=Message)


class DeclinedError(PenchantError):
    """The device takes no part, for a reason that the server may count."""

    def __init__(self, reason: RefusalReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def setup(device: Device, data: bytes) -> bytes:
    """SetupRequest -> SetupReply. Not part of any round; the certified server may ask it at any time."""
    request, artefacts = _parse(SetupRequest, data), Artefacts(device.vault)
    try:
        fleet, server_key = _server(device, request.certificate)
        if request.roster:
            fleet = enrol(device, fleet.invitation, request.roster)
        releases = [
            (open_document(ReleaseStatement, release.statement, server_key, fleet.fleet_id), release.data)
            for release in request.releases
        ]
    except PenchantError as error:
        raise DeclinedError(RefusalReason.TRUST, str(error)) from None
    try:
        artefacts.keep(releases)
    except ProtocolError as error:
        raise DeclinedError(RefusalReason.ARTEFACT, str(error)) from None
    identity = device.identity
    reply = SetupReply(
        identity=identity.public_bytes,
        signature=identity.sign(setup_transcript(request.challenge, identity.public_bytes)),
        roster_serial=fleet.serial,
        artefacts=artefacts.digests(),
    )
    return reply.to_bytes()


def advertise(device: Device, data: bytes) -> bytes:
    """AdvertiseRequest -> AdvertiseReply, if the fleet's server signed the task, the owner shares, the budget
    allows and nothing is missing."""
    request = _parse(AdvertiseRequest, data)
    try:
        fleet, server_key = _server(device, request.certificate)
        task = open_document(RoundTask, request.task, server_key, fleet.fleet_id)
        if task.roster_serial != fleet.serial:
            raise ProtocolError("the round is for another members' list than the one this device has")
    except PenchantError as error:
        raise DeclinedError(RefusalReason.TRUST, str(error)) from None
    progress = RoundProgress(device.vault)
    if (reply := progress.repeated(task.digest(), "advertise", data)) is not None:
        return reply
    settings = device.settings
    if not settings.share:
        raise DeclinedError(RefusalReason.CONSENT, "the owner of this device does not share")
    if task.cohort_size < settings.minimum_roster:
        raise DeclinedError(
            RefusalReason.ROSTER,
            f"the round has {task.cohort_size} devices, the owner asks for {settings.minimum_roster}",
        )
    try:
        Artefacts(device.vault).of_task(task)
    except PenchantError as error:
        raise DeclinedError(RefusalReason.ARTEFACT, str(error)) from None
    DeviceLedger(device.vault).refuse_overspending(task, settings)
    state, answer = secure_sum.advertise(task, device.identity)
    result = StageResult(answer.to_bytes(), state.to_bytes())
    progress.open(task, data, result)
    return result.reply


def share(device: Device, data: bytes) -> bytes:
    """ShareRequest -> ShareReply, if everybody on the roster is signed, enrolled and enough."""
    request = _parse(ShareRequest, data)
    progress = RoundProgress(device.vault)
    if (reply := progress.repeated(request.task_digest, "share", data)) is not None:
        return reply
    _, saved = progress.task_and_state(request.task_digest)
    try:
        state, answer = secure_sum.share(
            secure_sum.DeviceRound.from_bytes(saved),
            request,
            fleet=pinned_fleet(device).members,
            minimum_roster=device.settings.minimum_roster,
        )
    except ProtocolError as error:
        raise DeclinedError(RefusalReason.ROSTER, str(error)) from None
    result = StageResult(answer.to_bytes(), state.to_bytes())
    progress.answer(request.task_digest, "share", data, result)
    return result.reply


def collect(device: Device, data: bytes, work_factory: Callable[[Device], LocalWork]) -> bytes:
    """CollectRequest -> CollectReply: the only stage that trains, and the one that spends.

    The ledger entry, the reply and the new state are one transaction before anything is sent: no crash leaves
    an upload without its entry, and a repeated request costs nothing more.
    """
    request = _parse(CollectRequest, data)
    progress, ledger = RoundProgress(device.vault), DeviceLedger(device.vault)
    if (reply := progress.repeated(request.task_digest, "collect", data)) is not None:
        return reply
    task, saved = progress.task_and_state(request.task_digest)
    state = secure_sum.DeviceRound.from_bytes(saved)
    secure_sum.check_collect(state, request)  # before minutes of training, not after
    ledger.refuse_overspending(task, device.settings)
    age = ledger.age(task)
    update = update_at(
        device.vault, task, age, lambda: work_factory(device).compute(task, Artefacts(device.vault).of_task(task))
    )
    state, answer = secure_sum.mask(state, request, contribute(task, update, age=age))
    result = StageResult(answer.to_bytes(), state.to_bytes())

    def record() -> None:
        ledger.refuse_overspending(task, device.settings)
        ledger.write(task, size_bytes=len(result.reply), roster_size=len(state.roster))
        keep_or_drop(device.vault, task, age, update)

    progress.answer(request.task_digest, "collect", data, result, record)
    return result.reply


def confirm(device: Device, data: bytes) -> bytes:
    """ConfirmRequest -> ConfirmReply: a signature under one list of survivors."""
    request = _parse(ConfirmRequest, data)
    progress = RoundProgress(device.vault)
    if (reply := progress.repeated(request.task_digest, "confirm", data)) is not None:
        return reply
    _, saved = progress.task_and_state(request.task_digest)
    state, answer = secure_sum.confirm(secure_sum.DeviceRound.from_bytes(saved), request, device.identity)
    result = StageResult(answer.to_bytes(), state.to_bytes())
    progress.answer(request.task_digest, "confirm", data, result)
    return result.reply


def unmask(device: Device, data: bytes) -> bytes:
    """UnmaskRequest -> UnmaskReply, once, for one list of survivors; then the round's secrets are gone."""
    request = _parse(UnmaskRequest, data)
    progress = RoundProgress(device.vault)
    if (reply := progress.repeated(request.task_digest, "unmask", data)) is not None:
        return reply
    _, saved = progress.task_and_state(request.task_digest)
    _, answer = secure_sum.unmask(secure_sum.DeviceRound.from_bytes(saved), request)
    result = StageResult(answer.to_bytes(), None)
    progress.answer(request.task_digest, "unmask", data, result)
    return result.reply


def _server(device: Device, certificate: bytes) -> tuple[PinnedFleet, bytes]:
    """The pinned fleet and the public key of the server that its authority certified."""
    fleet = pinned_fleet(device)
    return fleet, fleet.server_key(certificate)


def _parse(kind: type[AnyMessage], data: bytes) -> AnyMessage:
    try:
        return kind.from_bytes(data)
    except ProtocolError as error:
        raise DeclinedError(RefusalReason.MALFORMED, str(error)) from None
