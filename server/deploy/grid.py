"""A Flower `Grid` straight on the SuperLink's state, for a ServerApp that runs in the SuperLink's own process.

Flower's way is a second process that is sent the app and speaks to the SuperLink over HTTP. Here the app is the one
installed beside the SuperLink, so nothing that the network can reach takes or runs code. Bytes that pass are counted
per direction, by the size of the messages' payloads on the wire.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, SUPERLINK_NODE_ID
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.linkstate import LinkState
from flwr.serverapp import Grid
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store.object_store import NoObjectInStoreError
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from protocol.errors import PenchantError


class LinkGrid(Grid):
    """One run on one SuperLink's state, opened at construction and kept alive until `close`."""

    def __init__(self, state: LinkState) -> None:
        self.state = state
        self.bytes_down = self.bytes_up = 0
        self._arriving: dict[str, str] = {}  # message -> its reply, announced and not yet whole
        run_id = state.create_run(None, None, None, {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP)
        (self._run,) = state.get_run_info(run_ids=[run_id])
        self._task = self._run.primary_task_id or 0
        if state.claim_task(self._task) is None or not state.activate_task(self._task):
            raise PenchantError("the SuperLink refused the run: start the fleet again")
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = self._task, run_id, SUPERLINK_NODE_ID
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="penchant-run", daemon=True)
        self._heart.start()

    def close(self) -> None:
        """End the run: what devices still send for it is dropped."""
        self._closed.set()
        self._heart.join(timeout=5.0)
        self.state.stop_run(self._run.run_id)

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_DEFAULT_INTERVAL / 3):
            self.state.acknowledge_task_heartbeat(self._task)

    def set_run(self, run: Run) -> None:
        """Take over the run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        """Numbers of the devices that are connected."""
        return self.state.get_nodes(self._run.run_id)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Flower's descriptions of the devices that are connected."""
        return self.state.get_node_info(node_ids=list(self.get_node_ids()))

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Part of Flower's interface."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Lay messages out for their nodes to fetch; returns the numbers of those that could be."""
        sent: list[str] = []
        with no_object_id_recompute():
            for message in messages:
                session = self.state.start_session(self._run.run_id)  # ends by itself with the last part stored
                message.metadata.__dict__["_message_id"] = message.object_id
                tree, parts = get_object_tree(message), get_all_nested_objects(message)
                envelope = remove_content_from_message(message)
                stored, wanted = self.state.store_message_and_object_tree(envelope, tree, session)
                if not stored:
                    continue  # a node that has gone meanwhile
                contents = {object_id: part.deflate() for object_id, part in parts.items()}
                for object_id in wanted:
                    self.state.store_object(self._run.run_id, session, object_id, contents[object_id])
                self.bytes_down += sum(map(len, contents.values()))
                sent.append(message.object_id)
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come in to these messages; each is handed over once."""
        wanted = set(message_ids)
        replies = self.state.get_message_res(message_ids=wanted - set(self._arriving), run_id=self._run.run_id)
        whole = [reply for reply in replies if reply.has_error()]
        # A reply is announced before its content is there; it counts when the last byte has come.
        arriving = {reply.metadata.reply_to_message_id: reply.metadata.message_id for reply in replies}
        self._arriving |= {asked: reply for asked, reply in arriving.items() if reply not in _numbers(whole)}
        for asked in wanted & set(self._arriving):
            message = self._whole(self._arriving[asked])
            if message is not None:
                whole.append(message)
                del self._arriving[asked]
        self.state.delete_messages(message_ins_ids={reply.metadata.reply_to_message_id for reply in whole})
        return whole

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Not used: rounds watch their replies come in (`server.transport`)."""
        raise NotImplementedError

    def _whole(self, message_id: str) -> Message | None:
        """A reply with its content; None while a part is missing."""
        store = self.state.object_store
        try:
            tree = store.get_object_tree(message_id)
        except NoObjectInStoreError:
            return None
        contents = {}
        for part in iterate_object_tree(tree):
            content = store.get(part.object_id)
            if not content:
                return None
            contents[part.object_id] = content
        self.bytes_up += sum(map(len, contents.values()))
        message = inflate_object_from_contents(message_id, contents)
        store.delete(message_id)
        if not isinstance(message, Message):
            return None
        message.metadata.__dict__["_message_id"] = message_id
        return message


def _numbers(messages: Iterable[Message]) -> set[str]:
    return {message.metadata.message_id for message in messages}
