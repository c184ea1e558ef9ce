"""The five stages of a round on a device: request bytes in, reply bytes out, everything else in the vault.

Each function answers a repeated request with the same bytes and refuses a changed one (`client.progress`).
The secure sum itself is `protocol.secure_sum`; here it meets the owner's rules, the training and the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from client.artefacts import artefacts_for, held_digests, keep_artefacts
from client.contribution import contribute
from client.enrol import pinned_roster
from client.ledger import DeviceLedger
from client.progress import RoundProgress, StageResult
from client.work import LocalWork
from edge_runtime.device import Device
from protocol import secure_sum
from protocol.errors import PenchantError, ProtocolError
from protocol.messages import (
    AdvertiseRequest,
    CollectRequest,
    Message,
    RefusalReason,
    SetupReply,
    SetupRequest,
    ShareRequest,
    UnmaskRequest,
)

AnyMessage = TypeVar("AnyMessage", bound=Message)


class DeclinedError(PenchantError):
    """The device takes no part, for a reason that the server may count."""

    def __init__(self, reason: RefusalReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def setup(device: Device, data: bytes) -> bytes:
    """SetupRequest -> SetupReply. Not part of any round; may be asked at any time."""
    request = _parse(SetupRequest, data)
    try:
        keep_artefacts(device.vault, request.artefacts)
    except ProtocolError as error:
        raise DeclinedError(RefusalReason.ARTEFACT, str(error)) from None
    return SetupReply(identity=device.identity.public_bytes, artefacts=held_digests(device.vault)).to_bytes()


def advertise(device: Device, data: bytes) -> bytes:
    """AdvertiseRequest -> AdvertiseReply, if the owner shares, the budget allows and nothing is missing."""
    task = _parse(AdvertiseRequest, data).task
    progress = RoundProgress(device.vault)
    if (reply := progress.repeated(task.digest(), "advertise", data)) is not None:
        return reply
    settings = device.settings
    if not settings.share:
        raise DeclinedError(RefusalReason.CONSENT, "the owner of this device does not share")
    pinned_roster(device)
    if task.cohort_size < settings.minimum_roster:
        raise DeclinedError(
            RefusalReason.ROSTER,
            f"the round has {task.cohort_size} devices, the owner asks for {settings.minimum_roster}",
        )
    try:
        artefacts_for(device.vault, task.artefacts)
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
            fleet=pinned_roster(device),
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
    update = work_factory(device).compute(task, artefacts_for(device.vault, task.artefacts))
    state, answer = secure_sum.mask(state, request, contribute(task, update))
    result = StageResult(answer.to_bytes(), state.to_bytes())

    def record() -> None:
        ledger.refuse_overspending(task, device.settings)
        ledger.write(task, size_bytes=len(result.reply), roster_size=len(state.roster))

    progress.answer(request.task_digest, "collect", data, result, record)
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


def _parse(kind: type[AnyMessage], data: bytes) -> AnyMessage:
    try:
        return kind.from_bytes(data)
    except ProtocolError as error:
        raise DeclinedError(RefusalReason.MALFORMED, str(error)) from None
