"""The app on loopback: a socket that no other machine can reach, and uvicorn on it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI

from protocol.errors import PenchantError

DEFAULT_PORT: Final = 8765
LOOPBACK_HOSTS: Final = ("127.0.0.1", "::1")
_HEADER_BYTES: Final = 16_384
_CONNECTIONS: Final = 64
_GRACE_SECONDS: Final = 2  # for running answers when the server is stopped


def loopback_socket(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A listening socket; port 0 takes a free one. PenchantError for any host but 127.0.0.1 and ::1, and if the port
    is taken."""
    if host not in LOOPBACK_HOSTS:
        raise PenchantError("The local API is for this machine only: --host is 127.0.0.1 or ::1.")
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if os.name == "posix":  # a restart need not wait; elsewhere the option lets others take the port over
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError):
        listening.close()
        raise PenchantError(
            f"Port {port} cannot be used on {host}; another program may have it: choose one with --port."
        ) from None
    return listening


def address_of(listening: socket.socket) -> str:
    """`http://127.0.0.1:8765`, for a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class LoopbackServer(uvicorn.Server):
    """uvicorn without access log, with small limits, that ends quietly on Ctrl-C and SIGTERM."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=_HEADER_BYTES,
                limit_concurrency=_CONNECTIONS,
                timeout_keep_alive=10,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn raises the signal again when it has stopped; here stopping is all that was asked for."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def serve_on(self, listening: socket.socket) -> None:
        """Serves until it is told to stop."""
        self.run(sockets=[listening])
