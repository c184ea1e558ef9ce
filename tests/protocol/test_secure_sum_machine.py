"""Devices and server in any order: messages lost, repeated, replayed and mixed up by a random schedule.

Whatever happens: a refusal is a ProtocolError, the sum is exact for the survivors or there is none, no device's
secrets are revealed in both kinds, and no device signs or answers two lists.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocol import masks, secure_sum
from protocol.clipping import JointLayout
from protocol.errors import ProtocolError
from protocol.keys import SigningKey
from protocol.messages import (
    AdvertiseReply,
    CollectReply,
    ConfirmReply,
    ConfirmRequest,
    Message,
    ShareReply,
    SurvivorList,
    UnmaskReply,
    UnmaskRequest,
)
from protocol.secure_sum import DeviceRound, ServerRound
from protocol.secure_sum_server import ServerStage
from tests.protocol.secure_sum_fleet import make_task

PEOPLE = 6
DEVICES = st.integers(0, PEOPLE - 1)
STAGES = ("share", "collect", "confirm", "unmask")
REPLIES: dict[str, type[Message]] = {
    "advertise": AdvertiseReply,
    "share": ShareReply,
    "collect": CollectReply,
    "confirm": ConfirmReply,
    "unmask": UnmaskReply,
}


class SecureSumMachine(RuleBasedStateMachine):
    """One attempt with `PEOPLE` devices; what the network holds back may arrive later, twice, or at another's."""

    def __init__(self) -> None:
        super().__init__()
        self.task = make_task(PEOPLE, minimum_survivors=3, dimension=5)
        made = [SigningKey.generate() for _ in range(PEOPLE)]
        self.keys = sorted(made, key=lambda key: key.public_bytes)
        self.fleet = [key.public_bytes for key in self.keys]
        self.server = ServerRound(self.task, fleet=self.fleet)
        length = JointLayout(self.task.update_dimension).dimension
        self.vectors = np.random.default_rng(7).integers(-(1 << 20), 1 << 20, (PEOPLE, length))
        self.states: dict[int, DeviceRound] = {}
        self.requests: dict[str, dict[int, Message]] = {stage: {} for stage in STAGES}
        self.replies: list[tuple[str, int, bytes]] = []  # on the way to the server, or taken down by somebody
        # Who has revealed a share of the seed, of the masking key, of each roster index.
        self.seed_holders: defaultdict[int, set[int]] = defaultdict(set)
        self.key_holders: defaultdict[int, set[int]] = defaultdict(set)
        self.signed: dict[int, set[tuple[tuple[int, ...], ...]]] = {device: set() for device in range(PEOPLE)}
        self.signatures: dict[ConfirmRequest, dict[int, bytes]] = {}
        self.total: np.ndarray | None = None

    # devices

    @initialize(present=st.sets(DEVICES, min_size=4))
    def open_the_round(self, present: set[int]) -> None:
        for device in present:
            self.states[device], reply = secure_sum.advertise(self.task, self.keys[device])
            self.replies.append(("advertise", device, reply.to_bytes()))

    @rule(device=DEVICES, stage=st.sampled_from(STAGES), lost=st.booleans(), whose=DEVICES)
    def a_device_is_asked(self, device: int, stage: str, lost: bool, whose: int) -> None:
        """In any order, again and again, sometimes with another device's request; the reply may get lost."""
        request = self.requests[stage].get(whose if stage == "collect" and lost else device)
        if request is None or device not in self.states:
            return
        state = DeviceRound.from_bytes(self.states[device].to_bytes())  # every message meets a fresh process
        steps: dict[str, Callable[[Any], tuple[DeviceRound, Message]]] = {
            "share": lambda asked: secure_sum.share(state, asked, fleet=self.fleet),
            "collect": lambda asked: secure_sum.mask(state, asked, self.vectors[device]),
            "confirm": lambda asked: secure_sum.confirm(state, asked, self.keys[device]),
            "unmask": lambda asked: secure_sum.unmask(state, asked),
        }
        try:
            state, reply = steps[stage](type(request).from_bytes(request.to_bytes()))
        except ProtocolError:
            return
        self.states[device] = state
        if isinstance(request, ConfirmRequest | UnmaskRequest):
            self.note(device, request, reply)
        if not lost:
            self.replies.append((stage, device, reply.to_bytes()))

    @rule(victim=DEVICES, misled=st.sets(DEVICES, min_size=1))
    def the_server_shows_two_lists(self, victim: int, misled: set[int]) -> None:
        """Some devices hear that the victim dropped, the others the truth; each list comes with all its signatures."""
        truth = self.requests["confirm"].get(0)
        if not isinstance(truth, ConfirmRequest) or victim not in truth.survivors:
            return
        survivors = tuple(index for index in truth.survivors if index != victim)
        lie = ConfirmRequest(
            task_digest=truth.task_digest, survivors=survivors, dropped=tuple(sorted({*truth.dropped, victim}))
        )
        for device, state in list(self.states.items()):
            listed = lie if device in misled else truth
            try:
                state, reply = secure_sum.confirm(state, listed, self.keys[device])
            except ProtocolError:
                continue
            self.states[device] = state
            self.note(device, listed)
            self.signatures.setdefault(listed, {})[state.index] = reply.signature
        for device, state in list(self.states.items()):
            for listed in (lie, truth):
                request = UnmaskRequest(**listed.model_dump(), signatures=self.signatures.get(listed, {}))
                try:
                    state, answer = secure_sum.unmask(state, request)
                except ProtocolError:
                    continue
                self.states[device] = state
                self.note(device, listed, answer)

    def note(self, device: int, listed: SurvivorList, reply: Message | None = None) -> None:
        """Which list a device has signed or answered, and whose secrets it gave shares of."""
        self.signed[device].add((listed.survivors, listed.dropped))
        if isinstance(reply, UnmaskReply):
            for owner in reply.seed_shares:
                self.seed_holders[owner].add(device)
            for owner in reply.key_shares:
                self.key_holders[owner].add(device)

    # the network and the server

    @rule(data=st.data(), repeat=st.booleans(), sender=st.none() | DEVICES)
    def a_reply_arrives(self, data: st.DataObject, repeat: bool, sender: int | None) -> None:
        if not self.replies:
            return
        place = data.draw(st.integers(0, len(self.replies) - 1))
        stage, device, reply = self.replies[place] if repeat else self.replies.pop(place)
        # Who sent a masked vector is the transport's word (node authentication): the masks hide it from everybody else.
        misattributed = sender is not None and stage != "collect"
        self.deliver(stage, sender if misattributed else device, reply)

    @rule()
    def everything_arrives(self) -> None:
        waiting, self.replies = self.replies, []
        for stage, device, reply in waiting:
            self.deliver(stage, device, reply)

    def deliver(self, stage: str, device: int, reply: bytes) -> None:
        message: Any = REPLIES[stage].from_bytes(reply)
        identity = self.fleet[device]
        adds: dict[str, Callable[[], None]] = {
            "advertise": lambda: self.server.add_advertisement(message),
            "share": lambda: self.server.add_shares(identity, message),
            "collect": lambda: self.server.add_masked(identity, message),
            "confirm": lambda: self.server.add_confirmation(identity, message),
            "unmask": lambda: self.server.add_unmask(identity, message),
        }
        try:
            adds[stage]()
        except ProtocolError:
            return

    @rule(stage=st.sampled_from(ServerStage))
    def the_server_closes_a_stage(self, stage: ServerStage) -> None:
        """Also one that is not open: then nothing may change."""
        before = self.server.stage
        try:
            if stage is ServerStage.ADVERTISE:
                roster = self.server.close_advertise()
                self.requests["share"] = dict.fromkeys(range(PEOPLE), roster)
            elif stage is ServerStage.SHARE:
                found = self.server.close_share()
                self.requests["collect"] = {self.fleet.index(identity): asked for identity, asked in found.items()}
            elif stage is ServerStage.COLLECT:
                self.requests["confirm"] = dict.fromkeys(range(PEOPLE), self.server.close_collect())
            elif stage is ServerStage.CONFIRM:
                self.requests["unmask"] = dict.fromkeys(range(PEOPLE), self.server.close_confirm())
            else:
                self.total = self.server.recover_sum()
        except ProtocolError:
            assert self.server.stage is before
            return
        assert before is stage

    # what always holds

    @invariant()
    def nobodys_secrets_can_be_rebuilt_in_both_kinds(self) -> None:
        for owner in self.seed_holders.keys() & self.key_holders.keys():
            graph, seeds, keys = self.server.graph, self.seed_holders[owner], self.key_holders[owner]
            assert not seeds & keys
            assert min(len(seeds), len(keys)) < (1 if graph.needs_confirmation else graph.threshold)

    @invariant()
    def nobody_signs_or_answers_two_lists(self) -> None:
        assert all(len(lists) <= 1 for lists in self.signed.values())

    @invariant()
    def a_sum_is_exact(self) -> None:
        if self.total is not None:
            survivors = [self.fleet.index(identity) for identity in self.server.survivors]
            assert len(survivors) >= self.task.minimum_survivors
            expected = masks.reduce_to_ring(self.vectors[survivors].sum(axis=0), self.task.ring_bits)
            assert np.array_equal(self.total, expected)


class HurriedMachine(SecureSumMachine):
    """The same with a rule that carries a whole stage through, so that many schedules reach the end."""

    @rule(gone=st.sets(DEVICES, max_size=2))
    def a_stage_goes_through(self, gone: set[int]) -> None:
        stage = self.server.stage
        names = {
            ServerStage.SHARE: "share",
            ServerStage.COLLECT: "collect",
            ServerStage.CONFIRM: "confirm",
            ServerStage.UNMASK: "unmask",
        }
        if stage in names:
            for device in set(self.states) - gone:
                self.a_device_is_asked(device=device, stage=names[stage], lost=False, whose=device)
        self.everything_arrives()
        self.the_server_closes_a_stage(stage=stage)


TestAnyOrder = SecureSumMachine.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestToTheEnd = HurriedMachine.TestCase
TestToTheEnd.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def test_the_machine_reaches_a_sum_and_notices_a_wrong_one() -> None:
    """The invariants are not idle: an undisturbed schedule ends with the sum, and another total breaks one."""
    machine = HurriedMachine()
    machine.open_the_round(present=set(range(PEOPLE)))
    for _ in range(5):
        machine.a_stage_goes_through(gone=set())
    assert machine.total is not None and len(machine.seed_holders) == PEOPLE and not machine.key_holders
    machine.a_sum_is_exact()
    machine.total = machine.total + 1
    with pytest.raises(AssertionError):
        machine.a_sum_is_exact()
