"""A round that a test takes stage by stage over real devices, playing the server: honestly, until it lies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ProtocolError
from protocol.messages import (
    AdvertiseReply,
    CollectReply,
    CollectRequest,
    ConfirmReply,
    ConfirmRequest,
    Refusal,
    RefusalReason,
    RoundTask,
    ShareReply,
    ShareRequest,
    SurvivorList,
    UnmaskReply,
    UnmaskRequest,
)
from protocol.messages import Message as WireMessage
from protocol.secure_sum import ServerRound
from server.planning import task_from_plan
from tests.device_help import ask_device, share_artefacts, signed_task
from tests.fleet_help import MeanAlgorithm, grid_of, in_fleet, make_fleet

Reply = TypeVar("Reply", bound=WireMessage)


class HandRun:
    """`people` enrolled devices and one round: `device` numbers are those of the homes, never roster indices."""

    def __init__(self, folder: Path, people: int, dimension: int = 64, **changes: Any) -> None:
        self.people = people
        self.homes = make_fleet(folder / "devices", people)
        self.grid = grid_of(self.homes, record_payloads=True)
        plan = MeanAlgorithm(dimension).next_task([])
        assert plan is not None
        self.plan, self.digests = plan, share_artefacts(self.grid, people, plan)
        self.begin(self.make_task(**changes))

    def make_task(self, **changes: Any) -> RoundTask:
        """A task for all devices that lets up to half of them go."""
        values = {
            "run_id": "r", "round": 0, "attempt": 0, "cohort_size": self.people,
            "minimum_survivors": max(2, self.people // 2), "dropout_fraction": 1 / 3, "noise_multiplier": 0.0,
            "delta": 1e-5, "ring_bits": 16, "artefacts": self.digests, **changes,
        }  # fmt: skip
        return in_fleet(task_from_plan(self.plan, **values))

    def begin(self, task: RoundTask) -> None:
        """Take up another task."""
        self.task, self.server = task, ServerRound(task)
        self.offers: dict[int, AdvertiseReply] = {}

    def index(self, device: int) -> int:
        """Roster index of a device."""
        return self.server.index_of(self.offers[device].identity)

    def ask(self, stage: str, device: int, request: WireMessage, kind: type[Reply]) -> Reply:
        """The device's reply; ProtocolError if it refused."""
        return kind.from_bytes(ask_device(self.grid, stage, device, request))

    def refusal(self, stage: str, device: int, request: WireMessage) -> RefusalReason:
        """Why the device refuses; ProtocolError if it does not."""
        return self.ask(stage, device, request, Refusal).reason

    def advertise(self) -> ShareRequest:
        for device in range(self.people):
            self.offers[device] = self.ask("advertise", device, signed_task(self.task), AdvertiseReply)
            self.server.add_advertisement(self.offers[device])
        return self.server.close_advertise()

    def share(self, request: ShareRequest) -> dict[int, CollectRequest]:
        for device, offer in self.offers.items():
            self.server.add_shares(offer.identity, self.ask("share", device, request, ShareReply))
        requests = self.server.close_share()
        return {device: requests[offer.identity] for device, offer in self.offers.items()}

    def collect(self, requests: Mapping[int, CollectRequest], gone: Collection[int] = ()) -> ConfirmRequest:
        self.masked: dict[int, bytes] = {}
        for device, request in requests.items():
            if device not in gone:
                reply = self.ask("collect", device, request, CollectReply)
                self.masked[device] = reply.masked
                self.server.add_masked(self.offers[device].identity, reply)
        return self.server.close_collect()

    def signatures(self, listed: SurvivorList, devices: Collection[int]) -> dict[int, bytes]:
        """The signatures that these devices give under the list, by roster index; who refuses is left out."""
        request = ConfirmRequest(task_digest=listed.task_digest, survivors=listed.survivors, dropped=listed.dropped)
        given = {}
        for device in devices:
            try:
                given[self.index(device)] = self.ask("confirm", device, request, ConfirmReply).signature
            except ProtocolError:
                continue
        return given

    def confirm(self, listed: ConfirmRequest) -> UnmaskRequest:
        for device in self.masked:
            identity = self.offers[device].identity
            self.server.add_confirmation(identity, self.ask("confirm", device, listed, ConfirmReply))
        return self.server.close_confirm()

    def unmask(self, request: UnmaskRequest) -> NDArray[np.uint32]:
        for device in self.masked:
            self.server.add_unmask(self.offers[device].identity, self.ask("unmask", device, request, UnmaskReply))
        return self.server.recover_sum()

    def honest_sum(self) -> NDArray[np.uint32]:
        """The whole round without a lie."""
        return self.unmask(self.confirm(self.collect(self.share(self.advertise()))))

    def true_sum(self, seen: Mapping[tuple[str, int], NDArray[np.int64]]) -> NDArray[np.uint32]:
        """What the sum must be, from the devices' own records."""
        total = sum(seen[self.task.digest(), device] for device in range(self.people))
        return np.asarray(total & ((1 << self.task.ring_bits) - 1), dtype=np.uint32)
