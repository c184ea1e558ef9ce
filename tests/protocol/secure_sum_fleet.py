"""A whole secure sum in memory, for tests: real devices and server, devices vanish where a test says."""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protocol import secure_sum
from protocol.clipping import JointLayout
from protocol.graph import plan_graph
from protocol.keys import SigningKey
from protocol.masks import Residues
from protocol.messages import (
    AdvertiseReply,
    CollectReply,
    CollectRequest,
    ConfirmReply,
    ConfirmRequest,
    RoundTask,
    ShareReply,
    ShareRequest,
    UnmaskReply,
    UnmaskRequest,
)
from protocol.secure_sum import DeviceRound, ServerRound


def make_task(cohort_size: int, **changes: object) -> RoundTask:
    """A valid task; every field can be changed."""
    plan = plan_graph(cohort_size)
    fields: dict[str, object] = {
        "run_id": "run-1",
        "round": 0,
        "kind": "shared",
        "artefacts": {"frame": "a" * 64},
        "base_sha256": "b" * 64,
        "dimension": 13,
        "clip_norm": 1.0,
        "noise_multiplier": 1.0,
        "minimum_survivors": 2,
        "cohort_size": cohort_size,
        "scale": 1000.0,
        "rotation_seed": 7,
        "graph_seed": 8,
        "graph_degree": plan.degree,
        "graph_threshold": plan.threshold,
        "delta": 1e-5,
    }
    return RoundTask.model_validate({**fields, **changes})


@dataclass
class SmallFleet:
    """Runs stages with everything passed through bytes, as on the wire. Devices 0..n-1 by identity order."""

    task: RoundTask
    keys: list[SigningKey] = field(default_factory=list)
    states: dict[int, DeviceRound] = field(default_factory=dict)
    received: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        made = [SigningKey.generate() for _ in range(self.task.cohort_size)]
        self.keys = sorted(made, key=lambda key: key.public_bytes)
        self.fleet = [key.public_bytes for key in self.keys]
        self.server = ServerRound(self.task, fleet=self.fleet)
        self.length = JointLayout(self.task.update_dimension).dimension

    def advertise(self, gone: Collection[int] = ()) -> ShareRequest:
        for device, key in enumerate(self.keys):
            if device not in gone:
                self.states[device], reply = secure_sum.advertise(self.task, key)
                self.server.add_advertisement(AdvertiseReply.from_bytes(self._wire(reply.to_bytes())))
        return ShareRequest.from_bytes(self.server.close_advertise().to_bytes())

    def share(self, request: ShareRequest, gone: Collection[int] = ()) -> dict[int, CollectRequest]:
        for device in self._left(gone):
            state, reply = secure_sum.share(self._reload(device), request, fleet=self.fleet)
            self.states[device] = state
            self.server.add_shares(self.fleet[device], ShareReply.from_bytes(self._wire(reply.to_bytes())))
        requests = self.server.close_share()
        return {
            self.fleet.index(identity): CollectRequest.from_bytes(request.to_bytes())
            for identity, request in requests.items()
        }

    def collect(
        self,
        requests: dict[int, CollectRequest],
        vectors: dict[int, NDArray[np.int64]],
        gone: Collection[int] = (),
    ) -> ConfirmRequest:
        for device in self._left(gone):
            state, reply = secure_sum.mask(self._reload(device), requests[device], vectors[device])
            self.states[device] = state
            self.server.add_masked(self.fleet[device], CollectReply.from_bytes(self._wire(reply.to_bytes())))
        return ConfirmRequest.from_bytes(self.server.close_collect().to_bytes())

    def confirm(self, request: ConfirmRequest, gone: Collection[int] = ()) -> UnmaskRequest:
        if self.server.graph.needs_confirmation:
            for device in self._left(gone):
                self.states[device], reply = secure_sum.confirm(self._reload(device), request, self.keys[device])
                self.server.add_confirmation(self.fleet[device], ConfirmReply.from_bytes(self._wire(reply.to_bytes())))
        return UnmaskRequest.from_bytes(self.server.close_confirm().to_bytes())

    def unmask(self, request: UnmaskRequest, gone: Collection[int] = ()) -> Residues:
        for device in self._left(gone):
            self.states[device], reply = secure_sum.unmask(self._reload(device), request)
            self.server.add_unmask(self.fleet[device], UnmaskReply.from_bytes(self._wire(reply.to_bytes())))
        return self.server.recover_sum()

    def _left(self, gone: Collection[int]) -> list[int]:
        for device in gone:
            self.states.pop(device, None)
        return sorted(self.states)

    def _reload(self, device: int) -> DeviceRound:
        """Every stage runs in another process: the state goes through its bytes."""
        return DeviceRound.from_bytes(self.states[device].to_bytes())

    def _wire(self, data: bytes) -> bytes:
        self.received.append(data)
        return data


def random_vectors(fleet: SmallFleet, rng: np.random.Generator) -> dict[int, NDArray[np.int64]]:
    """One integer vector per device, of both signs, some far beyond the ring."""
    return {device: rng.integers(-(1 << 40), 1 << 40, fleet.length) for device in range(fleet.task.cohort_size)}
