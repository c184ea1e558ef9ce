"""A device's standing connection to its fleet: Flower's Fleet API over TLS, spoken by the app that is installed here.

Flower's own SuperNode runs whatever app the server sends it. A device that did so would hold no promise: the server
could send an app without noise, masks or ledger. This node speaks the same protocol (registered P-384 key, signed
requests, heartbeats), never asks for the server's app, and answers every message with `client.app`, the code its
owner installed.

The server is lost and found again without a word from the owner: requests are repeated with growing pauses, and
after a restart of the server the node introduces itself anew. How long a device worked is not reported.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr is imported: no device reports home

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from protocol.errors import PenchantError

# Pauses in seconds: between two looks for a message while rounds are going on and while nothing happens, and after
# the server could not be reached.
BUSY_PAUSE, IDLE_PAUSE, LONGEST_LOST_PAUSE = 0.2, 2.0, 30.0
IDLE_AFTER = 30.0
# After two of these without a sign of life the server counts the node as gone.
HEARTBEAT_SECONDS = 10.0
PART_SECONDS = 30.0
MAXIMUM_MESSAGE_BYTES = 256 * 1024 * 1024
UNAVAILABLE = (429, 502, 503, 504)

log = logging.getLogger("penchant.client")
Say = Callable[[str], None]


class RefusedError(PenchantError):
    """The server does not know this device's key."""


class SuperNode:
    """The node of the device in `home`. `address` is host:port; `ca_certificate` PEM, the only authority whose TLS
    certificates are believed; `say` gets a line for the owner whenever the connection changes."""

    def __init__(
        self,
        app: ClientApp,
        home: Path,
        address: str,
        ca_certificate: str,
        key: ec.EllipticCurvePrivateKey,
        say: Say,
    ) -> None:
        self._app, self._home, self._say, self._key = app, home, say, key
        self._address, self._ca_certificate = address, ca_certificate
        self.answered = 0

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set. Raises RefusedError if the server does not know the key."""
        pause = 1.0
        while not stop.is_set():
            try:
                with self._connected() as (client, node):
                    pause = 1.0
                    self._serve(client, node, stop)
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                self._say(f"{_trouble(error)} Trying again in {pause:.0f} s.")
                stop.wait(pause)
                pause = min(2 * pause, LONGEST_LOST_PAUSE)

    @contextmanager
    def _connected(self) -> Iterator[tuple[FleetHttpClient, Node]]:
        """A client that the server has accepted, and the node's number there; heartbeats go on meanwhile."""
        public = self._key.public_key()
        client = FleetHttpClient.from_server_address(
            self._address,
            False,
            self._ca_certificate.encode("ascii"),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(self._key, public),
            ],
        )
        with client:
            request = ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=HEARTBEAT_SECONDS)
            try:
                node = Node(node_id=client.ActivateNode(request).node_id)
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.UNAUTHORIZED:
                    raise
                raise RefusedError(
                    "the server does not know this device's key: ask the fleet whether it enrolled this device"
                ) from None
            self._say(f"Connected to {self._address} over TLS.")
            gone = threading.Event()
            heart = threading.Thread(target=self._beat, args=(client, node, gone), daemon=True)
            heart.start()
            try:
                yield client, node
            finally:
                gone.set()
                try:
                    client.DeactivateNode(DeactivateNodeRequest(node_id=node.node_id))
                except (httpx.HTTPError, RuntimeError):
                    log.debug("the server was not told that this node leaves")
                heart.join(timeout=10.0)

    def _beat(self, client: FleetHttpClient, node: Node, gone: threading.Event) -> None:
        while not gone.wait(HEARTBEAT_SECONDS * 0.7):
            try:
                client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_SECONDS))
            except (httpx.HTTPError, RuntimeError):
                log.debug("a heartbeat was lost")

    def _serve(self, client: FleetHttpClient, node: Node, stop: threading.Event) -> None:
        last = time.monotonic()
        while not stop.is_set():
            pulled = client.PullMessages(PullMessagesRequest(node=node))
            if not pulled.messages_list:
                stop.wait(BUSY_PAUSE if time.monotonic() - last < IDLE_AFTER else IDLE_PAUSE)
                continue
            envelope = pulled.messages_list[0].metadata
            message = self._whole(client, node, envelope.run_id, pulled.message_object_trees[0])
            if message is not None:
                self._reply(client, node, self._answer(message, node))
                self.answered += 1
            last = time.monotonic()

    def _whole(self, client: FleetHttpClient, node: Node, run_id: int, tree: ObjectTree) -> Message | None:
        """The message with its content; None if the server no longer has it."""
        contents: dict[str, bytes] = {}
        size = 0
        try:
            for part in iterate_object_tree(tree):
                content = self._part(client, PullObjectRequest(node=node, run_id=run_id, object_id=part.object_id))
                if content is None:
                    return None
                contents[part.object_id] = content
                size += len(content)
                if size > MAXIMUM_MESSAGE_BYTES:
                    log.warning("a message of the server is too large; it was not read")
                    return None
            client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=tree.object_id)
            )
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.FORBIDDEN:  # the run is over
                raise
            return None
        try:
            message = inflate_object_from_contents(tree.object_id, contents)
        except Exception:  # what comes from the network must not end the node, whatever Flower's parsers raise
            log.warning("a message of the server could not be read")
            return None
        if not isinstance(message, Message):
            return None
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def _part(self, client: FleetHttpClient, request: PullObjectRequest) -> bytes | None:
        """One part of a message; a message may be announced a moment before its parts are there."""
        stop_at = time.monotonic() + PART_SECONDS
        while True:
            pulled = client.PullObject(request)
            if pulled.object_found and pulled.object_available:
                return pulled.object_content
            if not pulled.object_found or time.monotonic() > stop_at:
                return None
            time.sleep(BUSY_PAUSE)

    def _answer(self, message: Message, node: Node) -> Message:
        TaskIdentity.task_id = message.metadata.run_id
        TaskIdentity.run_id = message.metadata.run_id
        TaskIdentity.node_id = node.node_id
        context = Context(
            run_id=message.metadata.run_id,
            node_id=node.node_id,
            node_config={"device-home": str(self._home)},
            state=RecordDict(),
            run_config={},
        )
        try:
            return self._app(message, context)
        except Exception:  # a kind of message that this version does not know; stages never raise
            log.warning("a message could not be answered", exc_info=True)
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "unknown message"), reply_to=message)

    def _reply(self, client: FleetHttpClient, node: Node, reply: Message) -> None:
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run_id = reply.metadata.run_id
        with no_object_id_recompute():
            tree, parts = get_object_tree(reply), get_all_nested_objects(reply)
            request = PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[tree],
                clientapp_runtime_list=[0.0],
            )
            try:
                pushed = client.PushMessages(request)
                for object_id in pushed.objects_to_push:
                    client.PushObject(
                        PushObjectRequest(
                            node=node,
                            run_id=run_id,
                            session_id=pushed.session_id,
                            object_id=object_id,
                            object_content=parts[object_id].deflate(),
                        )
                    )
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.FORBIDDEN:  # the run is over: nobody waits for this reply
                    raise


def _trouble(error: httpx.TransportError | httpx.HTTPStatusError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        if error.response.status_code in UNAVAILABLE:
            return f"The server is busy (status {error.response.status_code})."
        return "The server has lost sight of this device or still waits for its earlier connection."
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "The server's TLS certificate is not from the fleet's authority; nothing was sent."
    return f"The server cannot be reached ({type(error).__name__})."
