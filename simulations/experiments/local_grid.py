"""A whole fleet in one process: a Flower `Grid` that calls the ClientApp for N device homes directly.

The same ServerApp and ClientApp run on it unchanged; it replaces only the transport. There is no worker pool
and no serialisation, so a message costs well under a millisecond on top of the app's own work, and every byte
that would have crossed the network is counted, per stage, device and direction. A test may ask it to lose
messages (`dropped(stage, partition)`: the device hears nothing) or replies (`silenced`: it works, but its
answer is lost); the server then gets at once the error that Flower sends after a message's time to live. All
traffic can be kept for an adversary to study.

Devices answer one after the other; `pull_messages` works for at most `slice_seconds` per call and hands over
what is ready, so that a server sees (and stores) replies as they arrive and can show progress.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr is imported: no fleet reports home

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

SERVER_NODE_ID = 1
FIRST_DEVICE_NODE_ID = 1_000
LocalRunConfig = dict[str, bool | float | int | str]
LossRule = Callable[[str, int], bool]


def lose_nothing(stage: str, partition: int) -> bool:
    """The default loss rule: every message and every reply arrives."""
    return False


@dataclass(frozen=True)
class Transfer:
    """One message on the wire. `direction` is "up" (device to server) or "down"; `size` in bytes, Flower's
    envelope included.
    """

    stage: str
    partition: int
    direction: str
    size: int
    payload: bytes | None  # only when the grid was asked to record


_sizes: dict[tuple[object, ...], int] = {}


def wire_size(message: Message) -> int:
    """Bytes of the message as Flower puts it on the wire: all its objects deflated, envelope and payload.

    Deflating takes 0.4 ms, most of it for the objects' names (SHA-256), whatever they are. It is done once per shape:
    payloads that are bytes of one length, under one envelope, deflate to one size.
    """
    lengths = [
        (name, field, len(value) if isinstance(value, bytes) else None)
        for name, record in message.content.items()
        for field, value in record.items()
    ]
    if any(length is None for _, _, length in lengths):
        return _deflated_size(message)
    metadata = message.metadata
    numbers = (metadata.src_node_id, metadata.dst_node_id, metadata.run_id)  # seven bits to a byte
    texts = (metadata.reply_to_message_id, metadata.group_id, metadata.message_type)
    shape = (*lengths, *(number.bit_length() for number in numbers), *(len(text) for text in texts))
    if shape not in _sizes:
        _sizes[shape] = _deflated_size(message)
    return _sizes[shape]


def _deflated_size(message: Message) -> int:
    return sum(len(part.deflate()) for part in get_all_nested_objects(message).values())


class LocalGrid(Grid):
    """Run `client_app` in this process for the devices whose homes are `homes` (partition i lives in
    `homes[i]`).
    """

    def __init__(
        self,
        client_app: ClientApp,
        homes: Sequence[Path],
        *,
        run_config: Mapping[str, bool | float | int | str] | None = None,
        dropped: LossRule = lose_nothing,
        silenced: LossRule = lose_nothing,
        record_payloads: bool = False,
        slice_seconds: float = 0.25,
        run_number: int = 1,
    ) -> None:
        self.homes = tuple(Path(home) for home in homes)
        self.dropped = dropped
        self.silenced = silenced
        self.record_payloads = record_payloads
        self.slice_seconds = slice_seconds
        self.transfers: list[Transfer] = []
        self.seconds_by_stage: dict[str, float] = defaultdict(float)
        self._client_app = client_app
        self._run = Run.create_empty(run_id=run_number)
        self._waiting: OrderedDict[str, Message] = OrderedDict()
        self._message_count = 0
        self._contexts = [
            Context(
                run_id=run_number,
                node_id=FIRST_DEVICE_NODE_ID + partition,
                node_config={
                    "partition-id": partition,
                    "num-partitions": len(self.homes),
                    "device-home": str(home),
                },
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for partition, home in enumerate(self.homes)
        ]
        # Message() takes its sender from the identity of the running task, which Flower's engines set per
        # process.
        TaskIdentity.task_id = run_number
        TaskIdentity.run_id = run_number
        TaskIdentity.node_id = SERVER_NODE_ID

    def set_run(self, run: Run) -> None:
        """Take over the run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message (Flower's older way; `Message(...)` does the same)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Node ids of all devices, in the order of their homes."""
        return [FIRST_DEVICE_NODE_ID + partition for partition in range(len(self.homes))]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; the devices work on them when replies are pulled."""
        message_ids: list[str] = []
        for message in messages:
            partition = message.metadata.dst_node_id - FIRST_DEVICE_NODE_ID
            if not 0 <= partition < len(self.homes):
                raise ValueError(f"no device has node id {message.metadata.dst_node_id}")
            self._message_count += 1
            message_id = f"local-{self._message_count}"
            message.metadata.__dict__["_message_id"] = message_id  # Flower's own grids set it in this way
            self._waiting[message_id] = message
            message_ids.append(message_id)
        return message_ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are ready: devices work through their queue for at most `slice_seconds`."""
        stop_at = time.monotonic() + self.slice_seconds
        replies: list[Message] = []
        for message_id in list(message_ids):
            message = self._waiting.pop(message_id, None)
            if message is None:
                continue
            replies.append(self._deliver(message))
            if time.monotonic() >= stop_at:
                break
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send, let every device answer, return the replies."""
        remaining = set(self.push_messages(messages))
        stop_at = time.monotonic() + timeout if timeout is not None else None
        replies: list[Message] = []
        while remaining & self._waiting.keys() and (stop_at is None or time.monotonic() < stop_at):
            replies.extend(self.pull_messages([key for key in self._waiting if key in remaining]))
        return replies

    def bytes_per_device(self, direction: str) -> dict[int, int]:
        """Total bytes by partition in one direction ("up" or "down")."""
        totals: dict[int, int] = dict.fromkeys(range(len(self.homes)), 0)
        for transfer in self.transfers:
            if transfer.direction == direction:
                totals[transfer.partition] += transfer.size
        return totals

    def bytes_by_stage(self, direction: str) -> dict[str, int]:
        """Total bytes of all devices by stage in one direction ("up" or "down")."""
        totals: dict[str, int] = defaultdict(int)
        for transfer in self.transfers:
            if transfer.direction == direction:
                totals[transfer.stage] += transfer.size
        return dict(totals)

    def _deliver(self, message: Message) -> Message:
        partition = message.metadata.dst_node_id - FIRST_DEVICE_NODE_ID
        stage = message.metadata.message_type.rpartition(".")[2]
        self._note(stage, partition, "down", message)
        if self.dropped(stage, partition):
            return self._number(Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, "lost on the way"), reply_to=message))
        began = time.perf_counter()
        # A device is another task than the server: Message() and the app must see the device's own identity.
        TaskIdentity.node_id = message.metadata.dst_node_id
        try:
            reply = self._client_app(message, self._contexts[partition])
        except Exception as error:  # as Flower's engines do: an app that raises answers with an error, not a crash
            reason = f"{type(error).__name__}: {error}"
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        finally:
            TaskIdentity.node_id = SERVER_NODE_ID
            self.seconds_by_stage[stage] += time.perf_counter() - began
        if self.silenced(stage, partition):
            return self._number(Message(Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "lost"), reply_to=message))
        self._note(stage, partition, "up", reply)
        return self._number(reply)

    def _number(self, reply: Message) -> Message:
        self._message_count += 1
        reply.metadata.__dict__["_message_id"] = f"local-{self._message_count}"
        return reply

    def _note(self, stage: str, partition: int, direction: str, message: Message) -> None:
        if not message.has_content():
            return
        payload: bytes | None = None
        if self.record_payloads:
            values = [value for record in message.content.config_records.values() for value in record.values()]
            payload = b"".join(value for value in values if isinstance(value, bytes))
        self.transfers.append(Transfer(stage, partition, direction, wire_size(message), payload))
