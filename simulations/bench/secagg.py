"""`penchant bench secagg`: one secure sum, ours, Flower's own SecAgg+ and a plain sum, over the same in-process grid.

All three run as Flower ClientApps on `LocalGrid`, so the envelope of a message costs each the same; no disk, no
training. Ours: fresh keys, signed roster, sealed shares, masks, recovery; a device's state passes through bytes between
its stages, as in a deployment where each runs in a fresh process. Flower's: its SecAgg+ workflow and mod at its default
ranges, at most 25 shares per person, threshold two thirds. That is fewer than ours has neighbours, and in its favour:
with as many as ours, its secret sharing alone would take more than an hour for 500 people.

Against Flower the secure sum alone is timed, from integers that are ready to be masked (Flower's side includes its
quantisation, some per cent): its SecAgg+ has no rotation and no noise. Against plain summing (`_vs_plain`) a whole
round is timed, with what a person does to the update in either case: clipping, rotation, rounding, noise, 16 bits per
value; there the plain server sees every contribution.

The cases `server_N` (3,584 values, N people, nobody lost) time the server alone; `per_n_log_n` should not grow.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, TypeVar

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr is imported: no fleet reports home

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from protocol import codec, masks, secure_sum
from protocol.clipping import JointLayout
from protocol.errors import PenchantError
from protocol.keys import SigningKey
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
from protocol.round_plan import RoundPlan, plan_task
from protocol.secure_sum import DeviceRound, ServerRound
from server.transport import FIELD, RECORD, Answer, ask, read_bytes
from simulations.bench.case import Case
from simulations.bench.flower_secagg import flower_round
from simulations.bench.runner import OnProgress
from simulations.experiments.local_grid import FIRST_DEVICE_NODE_ID, LocalGrid

Updates = NDArray[np.float64]
Integers = NDArray[np.int64]
Result = TypeVar("Result")
SIZES: Final = {
    "20x44042": (20, 44_042),
    "50x44042": (50, 44_042),
    "20x1126400": (20, 1_126_400),
    "500x3584": (500, 3584),
}
FLOWER_SHARES: Final = 25
GROWTH: Final = (50, 100, 200, 500, 1000, 2000)
GROWTH_VALUES: Final = 3584


@dataclass
class Sides:
    """Seconds of one round on each side (`contributing`: making everybody's integers, the same for ours and plain),
    and the bytes one person sends up in it.
    """

    contributing: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    flower: list[float] = field(default_factory=list)
    bytes_up: float = 0.0
    flower_bytes_up: float = 0.0
    neighbours: int = 0


def run(on_progress: OnProgress, repeats: int = 3) -> dict[str, Case]:
    """Seconds per round for every size, against Flower's and (`_vs_plain`) against plain summing; bytes per value."""
    cases: dict[str, Case] = {}
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    for size, (people, values) in SIZES.items():
        sides = _measure(people, values, repeats if people * values < 5_000_000 and people < 100 else 1)
        making = median(sides.contributing)
        more = {"bytes_up_per_person": sides.bytes_up, "flower_bytes_up_per_person": sides.flower_bytes_up}
        more |= {"neighbours": sides.neighbours, "flower_shares": min(people, FLOWER_SHARES)}
        cases[size] = Case(median(sides.ours), median(sides.flower), "s", more)
        whole = median(sides.ours) + making, median(sides.plain) + making
        cases[f"{size}_vs_plain"] = Case(*whole, "s", {"contributing": making})
        if size == "20x1126400":
            cases["bytes_per_value"] = Case(sides.bytes_up / values, sides.flower_bytes_up / values, "B")
        on_progress(f"{people} people, {values:,} values", 1.0)
    for people in GROWTH:
        seconds, neighbours = server_seconds(people, GROWTH_VALUES)
        more = {"per_n_log_n": seconds / (people * np.log2(people)), "neighbours": neighbours}
        cases[f"server_{people}"] = Case(seconds, None, "s", more)
        on_progress(f"the server with {people} people", 1.0)
    return cases


def _measure(people: int, values: int, repeats: int) -> Sides:
    sides = Sides()
    for turn in range(repeats):
        task, keys, updates = _fleet(people, values, seed=turn)
        plan, sides.neighbours = RoundPlan.of(task), task.graph_degree
        began = time.perf_counter()
        contributions = [plan.contribute(update, 0.0, 1) for update in updates]
        sides.contributing.append(time.perf_counter() - began)
        began = time.perf_counter()
        sides.bytes_up, _ = secure_round(task, keys, contributions)
        sides.ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        plain_round(task, contributions)
        sides.plain.append(time.perf_counter() - began)
        began = time.perf_counter()
        sides.flower_bytes_up = flower_round(updates, shares=min(people, FLOWER_SHARES))
        sides.flower.append(time.perf_counter() - began)
    return sides


def _fleet(people: int, values: int, seed: int) -> tuple[RoundTask, list[SigningKey], Updates]:
    """A task, identities, and one update of norm at most 1 per person, (people, values)."""
    updates = np.random.default_rng(seed).normal(0.0, 1.0, (people, values))
    updates /= np.linalg.norm(updates, axis=1, keepdims=True) * 1.001
    task = plan_task(
        run_id="bench",
        round=seed,
        kind="shared",
        artefacts={},
        base_sha256="b" * 64,
        dimension=values,
        clip_norm=1.0,
        noise_multiplier=1.0,
        cohort_size=people,
        minimum_survivors=people - people // 3,
        delta=1e-5,
    )
    return task, [SigningKey.generate() for _ in range(people)], updates


def secure_round(task: RoundTask, keys: list[SigningKey], contributions: Sequence[Integers]) -> tuple[float, float]:
    """One round of ours through Flower messages, checked to the last bit: (bytes up per person, seconds of the server).

    The server's seconds are those of its half of the protocol, parsing included, without Flower's envelopes.
    """
    server_seconds = 0.0
    fleet = frozenset(key.public_bytes for key in keys)
    saved_states: dict[int, bytes] = {}
    app = ClientApp()

    def answer(
        message: Message, context: Context, step: Callable[[int, bytes, bytes], tuple[DeviceRound, bytes]]
    ) -> Message:
        person = int(context.node_config["partition-id"])
        state, reply = step(person, saved_states.get(person, b""), read_bytes(message))
        saved_states[person] = state.to_bytes()
        return Message(RecordDict({RECORD: ConfigRecord({FIELD: reply})}), reply_to=message)

    def advertise(person: int, saved: bytes, data: bytes) -> tuple[DeviceRound, bytes]:
        state, reply = secure_sum.advertise(RoundTask.from_bytes(data), keys[person])
        return state, reply.to_bytes()

    def share(person: int, saved: bytes, data: bytes) -> tuple[DeviceRound, bytes]:
        request = ShareRequest.from_bytes(data)
        state, reply = secure_sum.share(DeviceRound.from_bytes(saved), request, fleet=fleet)
        return state, reply.to_bytes()

    def collect(person: int, saved: bytes, data: bytes) -> tuple[DeviceRound, bytes]:
        request = CollectRequest.from_bytes(data)
        state, reply = secure_sum.mask(DeviceRound.from_bytes(saved), request, contributions[person])
        return state, reply.to_bytes()

    def confirm(person: int, saved: bytes, data: bytes) -> tuple[DeviceRound, bytes]:
        request = ConfirmRequest.from_bytes(data)
        state, reply = secure_sum.confirm(DeviceRound.from_bytes(saved), request, keys[person])
        return state, reply.to_bytes()

    def unmask(person: int, saved: bytes, data: bytes) -> tuple[DeviceRound, bytes]:
        state, reply = secure_sum.unmask(DeviceRound.from_bytes(saved), UnmaskRequest.from_bytes(data))
        return state, reply.to_bytes()

    app.query("advertise")(lambda message, context: answer(message, context, advertise))
    app.query("share")(lambda message, context: answer(message, context, share))
    app.train("collect")(lambda message, context: answer(message, context, collect))
    app.query("confirm")(lambda message, context: answer(message, context, confirm))
    app.query("unmask")(lambda message, context: answer(message, context, unmask))
    grid = LocalGrid(app, [Path(str(person)) for person in range(len(keys))])
    node_of = {key.public_bytes: FIRST_DEVICE_NODE_ID + person for person, key in enumerate(keys)}
    identity_of = {node: identity for identity, node in node_of.items()}
    server = ServerRound(task, fleet=fleet)

    def gather(stage: str, requests: Mapping[int, bytes], add: Callable[[bytes, bytes], None]) -> None:
        def take(answers: list[Answer]) -> None:
            nonlocal server_seconds
            began = time.perf_counter()
            for one in answers:
                add(identity_of[one.node_id], _data_of(one))
            server_seconds += time.perf_counter() - began

        ask(grid, stage, requests, group="bench", seconds=600.0, on_answers=take)

    def timed(step: Callable[[], Result]) -> Result:
        nonlocal server_seconds
        began = time.perf_counter()
        result = step()
        server_seconds += time.perf_counter() - began
        return result

    everybody = list(node_of.values())
    gather(
        "advertise",
        dict.fromkeys(everybody, task.to_bytes()),
        lambda identity, data: server.add_advertisement(AdvertiseReply.from_bytes(data)),
    )
    gather(
        "share",
        dict.fromkeys(everybody, timed(lambda: server.close_advertise().to_bytes())),
        lambda identity, data: server.add_shares(identity, ShareReply.from_bytes(data)),
    )
    requests = timed(lambda: {identity: request.to_bytes() for identity, request in server.close_share().items()})
    gather(
        "collect",
        {node_of[identity]: request for identity, request in requests.items()},
        lambda identity, data: server.add_masked(identity, CollectReply.from_bytes(data)),
    )
    listed = timed(lambda: server.close_collect().to_bytes())
    if server.graph.needs_confirmation:
        gather(
            "confirm",
            dict.fromkeys(everybody, listed),
            lambda identity, data: server.add_confirmation(identity, ConfirmReply.from_bytes(data)),
        )
    gather(
        "unmask",
        dict.fromkeys(everybody, timed(lambda: server.close_confirm().to_bytes())),
        lambda identity, data: server.add_unmask(identity, UnmaskReply.from_bytes(data)),
    )
    total = timed(server.recover_sum)
    if not np.array_equal(total, masks.reduce_to_ring(np.sum(contributions, axis=0), task.ring_bits)):
        raise PenchantError("the secure sum of this benchmark is not the sum of its contributions")
    return sum(grid.bytes_per_device("up").values()) / len(keys), server_seconds


def plain_round(task: RoundTask, contributions: Sequence[Integers]) -> None:
    """The same contributions through the same grid, each shown to the server."""
    length = JointLayout(task.update_dimension).dimension
    total = np.zeros(length, masks.word(task.ring_bits))
    app = ClientApp()

    @app.train("collect")
    def collect(message: Message, context: Context) -> Message:
        values = contributions[int(context.node_config["partition-id"])]
        packed = codec.pack(masks.reduce_to_ring(values, task.ring_bits), task.ring_bits)
        return Message(RecordDict({RECORD: ConfigRecord({FIELD: packed})}), reply_to=message)

    def add(answers: list[Answer]) -> None:
        for one in answers:
            np.add(total, codec.unpack(_data_of(one), length, task.ring_bits), out=total)

    grid = LocalGrid(app, [Path(str(person)) for person in range(len(contributions))])
    requests = dict.fromkeys(grid.get_node_ids(), task.to_bytes())
    ask(grid, "collect", requests, group="bench", seconds=600.0, on_answers=add)
    expected = masks.reduce_to_ring(np.sum(contributions, axis=0), task.ring_bits)
    if not np.array_equal(total & masks.ring_mask(task.ring_bits), expected):
        raise PenchantError("the plain sum of this benchmark is not the sum of its contributions")


def server_seconds(people: int, values: int) -> tuple[float, int]:
    """(the server's own work in one round of `people` with `values` numbers each, nobody lost; neighbours each)."""
    task, keys, updates = _fleet(people, values, seed=0)
    plan = RoundPlan.of(task)
    seconds = secure_round(task, keys, [plan.contribute(update, 0.0, 1) for update in updates])[1]
    return seconds, task.graph_degree


def _data_of(answer: Answer) -> bytes:
    if answer.data is None:
        raise PenchantError(f"a device of the benchmark failed: {answer.problem}")
    return answer.data
