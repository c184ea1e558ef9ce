"""Flower's SuperLink, opened no further than a fleet needs it.

Flower 1.41 serves three APIs on one port: the Fleet API (devices, authenticated by registered keys), the Control API
(whoever can reach it may register keys and submit code to run) and the Runtime API. Here only the Fleet API answers,
and only to registered keys; everything else is "not found". What control there is happens in this process. One path
is added: the authority's signed list of members, for devices that have just been enrolled.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr is imported: no fleet reports home

import uvicorn
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    ISOLATION_MODE_PROCESS,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    TRANSPORT_TYPE_GRPC_RERE,
)
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLWR_IN_MEMORY_DB_NAME
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from protocol.errors import PenchantError
from protocol.invitation import ROSTER_PATH

FLEET_API = "/v1/fleet/"
MAXIMUM_REQUEST_BYTES = 64 * 1024 * 1024
START_SECONDS, STOP_SECONDS = 30.0, 5.0
# Flower's log names devices by their keys and reports every lost connection; the fleet's own lines say what matters.
logging.getLogger("flwr").setLevel(logging.CRITICAL)


class OnlyTheFleet:
    """ASGI middleware: the Fleet API for keys that `knows` (PEM), the members' list, nothing else."""

    def __init__(self, app: ASGIApp, knows: Callable[[bytes], bool], roster: Callable[[], bytes]) -> None:
        self._app, self._knows, self._roster = app, knows, roster

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through, answer, or refuse."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path = scope.get("path", "")
        answer: Response
        if scope["type"] == "http" and path.startswith(FLEET_API):
            if not self._knows(_claimed_key(scope)):
                answer = PlainTextResponse("unknown key", status_code=401)
            elif not 0 <= _length(scope) <= MAXIMUM_REQUEST_BYTES:
                answer = PlainTextResponse("too large, or of unknown length", status_code=413)
            else:
                await self._app(scope, receive, send)  # Flower now checks that the key was really used
                return
        elif scope["type"] == "http" and path == ROSTER_PATH and scope["method"] == "GET":
            answer = Response(self._roster(), media_type="application/octet-stream")
        else:
            answer = PlainTextResponse("not found", status_code=404)
        await answer(scope, receive, send)


def _claimed_key(scope: Scope) -> bytes:
    try:
        return base64.b64decode(_header(scope, FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode("ascii")), validate=True)
    except binascii.Error:
        return b""


def _length(scope: Scope) -> int:
    """The announced length of a request's body; -1 if it announces none."""
    value = _header(scope, b"content-length")
    return int(value) if value.isdigit() else -1


def _header(scope: Scope, wanted: bytes) -> bytes:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return next((value for name, value in headers if name.lower() == wanted), b"")


class SuperLink:
    """A SuperLink in a thread of this process. Its state is in memory: what must last is in the fleet's own store."""

    def __init__(
        self, host: str, port: int, certificate: Path, key: Path, authority: Path, roster: Callable[[], bytes]
    ) -> None:
        config = SuperLinkLifespanConfig(
            control_address="",
            health_server_address=None,
            host=host,
            port=port,
            insecure=False,
            certificates=(authority.read_bytes(), certificate.read_bytes(), key.read_bytes()),
            superexec_auth_secret=None,
            authn_plugin=NoOpControlAuthnPlugin(),
            event_log_plugin=None,
            fleet_event_log_plugin=None,
            enable_event_log=False,
            artifact_provider=None,
            enable_supernode_auth=True,
            fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
            fleet_api_address=None,
            simulation=False,
            ssl_ca_certfile=str(authority),
            ssl_certfile=str(certificate),
            ssl_keyfile=str(key),
            database=FLWR_IN_MEMORY_DB_NAME,
            isolation=ISOLATION_MODE_PROCESS,
            runtime_dependency_install=False,
        )
        app = create_app(config, SuperLinkLifespan)
        self.state: LinkState = app.state.linkstate_factory.state()
        self._nodes: dict[bytes, int] = {}
        guarded = OnlyTheFleet(app, self._nodes.__contains__, roster)
        options: dict[str, Any] = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key), "access_log": False}
        self._server = uvicorn.Server(
            uvicorn.Config(guarded, host=host, port=port, log_level="warning", server_header=False, **options)
        )
        self._thread = threading.Thread(target=self._serve, name="superlink", daemon=True)
        self._address = f"{host}:{port}"

    def start(self) -> None:
        """Serve. PenchantError if the port cannot be had."""
        self._thread.start()
        stop_at = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > stop_at:
                raise PenchantError(f"cannot serve on {self._address}: is another fleet running there?")
            time.sleep(0.02)

    def _serve(self) -> None:
        with suppress(SystemExit):  # uvicorn's answer to a port that is taken; `start` says so
            self._server.run()

    def stop(self) -> None:
        """End; connections are closed."""
        self._server.should_exit = True
        self._thread.join(timeout=STOP_SECONDS)
        self._server.force_exit = True

    def admit(self, keys: Iterable[bytes]) -> None:
        """Let exactly these keys (PEM) in: new ones are registered, ones that are gone are struck off."""
        wanted = set(keys)
        for key in wanted - set(self._nodes):
            self._nodes[key] = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, HEARTBEAT_DEFAULT_INTERVAL)
        for key in set(self._nodes) - wanted:
            self.state.delete_node(NOOP_FLWR_AID, self._nodes.pop(key))
