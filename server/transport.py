"""The only file of the server that knows Flower's messages: send bytes to nodes, hand over replies as they
arrive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from protocol.errors import ProtocolError

RECORD, FIELD = "m", "cbor"
MESSAGE_TYPES = {
    "setup": "query.setup",
    "advertise": "query.advertise",
    "share": "query.share",
    "collect": "train.collect",
    "confirm": "query.confirm",
    "unmask": "query.unmask",
}
# Waiting times between two looks for replies, in seconds: short at first (local fleets), then polite (real
# networks).
SHORTEST_WAIT, LONGEST_WAIT = 0.01, 1.0


@dataclass(frozen=True)
class Answer:
    """One node's reply: `data` is the reply's bytes, or None with `problem` saying why there are none."""

    node_id: int
    data: bytes | None
    problem: str = ""


def ask(
    grid: Grid,
    stage: str,
    requests: Mapping[int, bytes],
    *,
    group: str,
    seconds: float,
    on_answers: Callable[[list[Answer]], None],
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Send one request to each node and call `on_answers` with each batch of replies, until all have
    answered, nothing more comes in while `enough()` holds, or `seconds` have passed. Whatever comes later is
    not looked at."""
    if not requests:
        return
    messages = [
        Message(
            RecordDict({RECORD: ConfigRecord({FIELD: data})}),
            dst_node_id=node_id,
            message_type=MESSAGE_TYPES[stage],
            group_id=group,
            ttl=seconds,
        )
        for node_id, data in requests.items()
    ]
    stop_at = time.monotonic() + seconds
    pending = list(grid.push_messages(messages))
    wait = SHORTEST_WAIT
    while pending and time.monotonic() < stop_at:
        replies = list(grid.pull_messages(pending))
        if not replies:
            if enough():  # only when nobody is answering just now: every reply lets a device delete its secrets
                return
            time.sleep(min(wait, max(0.0, stop_at - time.monotonic())))
            wait = min(2 * wait, LONGEST_WAIT)
            continue
        wait = SHORTEST_WAIT
        answered = {reply.metadata.reply_to_message_id for reply in replies}
        pending = [message_id for message_id in pending if message_id not in answered]
        on_answers([_answer(reply) for reply in replies])


def read_bytes(message: Message) -> bytes:
    """The payload of one of our messages. Raises ProtocolError if it is not shaped like one."""
    record = message.content.config_records.get(RECORD)
    data = None if record is None else record.get(FIELD)
    if not isinstance(data, bytes):
        raise ProtocolError("a message without a payload arrived: both sides must run the same version")
    return data


def _answer(reply: Message) -> Answer:
    node_id = reply.metadata.src_node_id
    if reply.has_error():
        return Answer(node_id, None, str(reply.error.reason or "no answer")[:200])
    try:
        return Answer(node_id, read_bytes(reply))
    except ProtocolError as error:
        return Answer(node_id, None, str(error))
