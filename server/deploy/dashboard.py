"""The fleet's dashboard: one page, one JSON document, one scrape; read-only, on loopback, for whoever has the token.

The page holds no data and loads nothing from elsewhere; it takes the token from the address's fragment (which browsers
do not send) and asks for the state with it. Prometheus sends the token as a bearer token.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from protocol.errors import PenchantError
from server.deploy.folder import FleetFolder
from server.deploy.metrics import exposition
from server.deploy.status import FleetStatus, fleet_status

LOOPBACK_HOST = "127.0.0.1"
FRESH_SECONDS, START_SECONDS = 1.0, 10.0
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def create_dashboard(root: Path, token: str) -> FastAPI:
    """The dashboard of the fleet in `root`."""
    app = FastAPI(title="Penchant fleet", docs_url=None, redoc_url=None, openapi_url=None)
    page = resources.files("server.deploy").joinpath("dashboard.html").read_text("utf-8")
    read = _Fresh(root)

    def allowed(authorization: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "the dashboard needs its token")

    @app.get("/")
    def show() -> HTMLResponse:
        return HTMLResponse(page, headers=HEADERS)

    @app.get("/api/status", dependencies=[Depends(allowed)])
    def state() -> dict[str, Any]:
        return read().to_dict()

    @app.get("/metrics", dependencies=[Depends(allowed)])
    def metrics() -> Response:
        return PlainTextResponse(exposition(read), headers=HEADERS)

    return app


@contextmanager
def serve_dashboard(root: Path, port: int) -> Iterator[str]:
    """Serve it in a thread while the block lasts; gives the page's address, token included."""
    folder = FleetFolder(root)
    token = folder.read(folder.key("dashboard.token")).decode("ascii").strip()
    options: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
    server = uvicorn.Server(uvicorn.Config(create_dashboard(root, token), host=LOOPBACK_HOST, port=port, **options))
    thread = threading.Thread(target=server.run, name="dashboard", daemon=True)
    thread.start()
    stop_at = time.monotonic() + START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > stop_at:
            raise PenchantError(f"the dashboard cannot be served on port {port}: choose another dashboard-port")
        time.sleep(0.02)
    try:
        yield f"http://{LOOPBACK_HOST}:{port}/#token={token}"
    finally:
        server.should_exit = True
        thread.join(timeout=START_SECONDS)


class _Fresh:
    """The status, read at most once a second: composing a ledger is not free."""

    def __init__(self, root: Path) -> None:
        self._root, self._lock = root, threading.Lock()
        self._read_at, self._status = -FRESH_SECONDS, None  # type: tuple[float, FleetStatus | None]

    def __call__(self) -> FleetStatus:
        with self._lock:
            if self._status is None or time.monotonic() - self._read_at > FRESH_SECONDS:
                self._status, self._read_at = fleet_status(self._root), time.monotonic()
            return self._status
