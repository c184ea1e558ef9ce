"""LocalGrid is a Grid: it delivers, counts, loses what it is told to lose, and reports failures as Flower
does.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from simulations.experiments.local_grid import FIRST_DEVICE_NODE_ID, SERVER_NODE_ID, LocalGrid, LossRule, lose_nothing

echo = ClientApp()


@echo.query("setup")
def setup(message: Message, context: Context) -> Message:
    data = message.content.config_records["m"]["cbor"]
    assert isinstance(data, bytes) and TaskIdentity.node_id == message.metadata.dst_node_id
    if data == b"fail":
        raise RuntimeError("broken")
    reply = data + str(context.node_config["partition-id"]).encode()
    return Message(RecordDict({"m": ConfigRecord({"cbor": reply})}), reply_to=message)


def grid_of(people: int = 3, dropped: LossRule = lose_nothing, silenced: LossRule = lose_nothing) -> LocalGrid:
    homes = [Path(f"/nowhere/{number}") for number in range(people)]
    return LocalGrid(echo, homes, dropped=dropped, silenced=silenced, record_payloads=True)


def messages(grid: LocalGrid, data: bytes = b"x" * 100) -> list[Message]:
    return [
        Message(RecordDict({"m": ConfigRecord({"cbor": data})}), node, "query.setup") for node in grid.get_node_ids()
    ]


def test_every_device_answers_for_itself() -> None:
    grid = grid_of()
    replies = list(grid.send_and_receive(messages(grid, b"hello ")))
    assert [reply.content.config_records["m"]["cbor"] for reply in replies] == [
        b"hello 0", b"hello 1", b"hello 2",
    ]  # fmt: skip
    assert [reply.metadata.src_node_id for reply in replies] == list(grid.get_node_ids())
    assert TaskIdentity.node_id == SERVER_NODE_ID


def test_losses_arrive_as_flowers_errors_and_are_counted_as_they_happened() -> None:
    grid = grid_of(dropped=lambda stage, who: who == 0, silenced=lambda stage, who: who == 1)
    replies = list(grid.send_and_receive(messages(grid)))
    assert [reply.has_error() for reply in replies] == [True, True, False]
    assert grid.bytes_per_device("up") == {0: 0, 1: 0, 2: grid.bytes_by_stage("up")["setup"]}
    assert all(size > 100 for size in grid.bytes_per_device("down").values())
    assert [transfer.payload for transfer in grid.transfers if transfer.direction == "up"] == [b"x" * 100 + b"2"]


def test_an_app_that_raises_answers_with_an_error() -> None:
    grid = grid_of(1)
    (reply,) = grid.send_and_receive(messages(grid, b"fail"))
    assert reply.has_error() and "broken" in reply.error.reason


def test_replies_come_in_slices_and_unknown_nodes_are_refused() -> None:
    grid = LocalGrid(echo, [Path("/a"), Path("/b")], slice_seconds=0.0)
    pending = list(grid.push_messages(messages(grid)))
    assert len(list(grid.pull_messages(pending))) == 1 == len(list(grid.pull_messages(pending)))
    with pytest.raises(ValueError, match="no device has node id"):
        grid.push_messages([Message(RecordDict(), FIRST_DEVICE_NODE_ID + 9, "query.setup")])


def test_a_message_costs_about_a_millisecond() -> None:
    grid = grid_of(50)
    batch = messages(grid, b"x" * 10_000)
    began = time.perf_counter()
    list(grid.send_and_receive(batch))
    assert (time.perf_counter() - began) / 50 < 0.01  # measured 0.6 ms on an idle core; ten times that when shared
