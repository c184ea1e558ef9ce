"""`penchant serve`: the local API and the page, for this machine's owner."""

from __future__ import annotations

import html
import os
import sys
import threading
import webbrowser
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from edge_runtime.commands.models import ModelName, Threads
from edge_runtime.commands.support import AsJson, Home, one_line_errors, opened_device, print_json
from edge_runtime.device import default_home
from edge_runtime.store.keys import key_exists, needs_passphrase
from protocol.errors import PenchantError

if TYPE_CHECKING:
    from edge_runtime.api.session import ModelState

_DOORWAY: Final = "open.html"
_DOORWAY_SECONDS: Final = 20.0  # until a browser has read it


@one_line_errors
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 8765,
    host: Annotated[str, typer.Option(help="127.0.0.1 or ::1; nothing else is served.")] = "127.0.0.1",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    locked: Annotated[bool, typer.Option("--locked", help="Start locked; the page asks for the passphrase.")] = False,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Draw a new token; programs that have the old one lose access.")
    ] = False,
    model: ModelName = "smollm2-135m",
    threads: Threads = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Serve the page and an OpenAI-compatible API on this machine, until Ctrl-C."""
    from edge_runtime.api.app import create_app
    from edge_runtime.api.server import LoopbackServer, address_of, loopback_socket
    from edge_runtime.api.session import Session

    if locked and new_token:
        raise PenchantError("A locked device cannot change its token: leave --locked or --new-token out.")
    place = (home or default_home()).expanduser()
    with loopback_socket(port, host) as listening:
        if not key_exists(place):
            with opened_device(place, create=True):
                pass  # says where the new device is and how its key is kept
        session = Session(place, model=model, threads=threads)
        try:
            if not locked:
                session.start_opening(_passphrase(place), new_token=new_token).result()
            address = address_of(listening)
            url = f"{address}/#token={session.token}"
            if as_json:
                print_json({"url": url, "base_url": f"{address}/v1", "token": session.token, "home": str(place)})
            else:
                typer.echo(f"Penchant serves at {url}  (Ctrl-C stops it)")
            sys.stdout.flush()
            if not locked:
                typer.echo("Loading the model ...", err=True)
                session.preload().add_done_callback(_say_loaded)
            with _doorway(place, url) if open_page else nullcontext():
                LoopbackServer(create_app(session)).serve_on(listening)
        finally:
            session.close()
    typer.echo("Stopped. Everything that was acknowledged is stored.", err=True)


def _passphrase(place: Path) -> str | None:
    given = os.environ.get("PENCHANT_PASSPHRASE") or None
    if given is None and needs_passphrase(place) and sys.stdin.isatty():
        return str(typer.prompt("Passphrase", hide_input=True, err=True))
    return given


def _say_loaded(loaded: Future[ModelState]) -> None:
    try:
        state = loaded.result()
    except CancelledError:
        return
    except Exception as error:
        reason = " ".join(str(error).split()) if isinstance(error, PenchantError) else type(error).__name__
        typer.echo(f"The model cannot be loaded: {reason}", err=True)
        return
    typer.echo(f"Ready: {state.name} ({state.quantisation}).", err=True)


@contextmanager
def _doorway(place: Path, url: str) -> Iterator[None]:
    """Opens the page by way of a file that only its owner can read: the arguments of a browser's process, and so a
    token in them, can be read by everybody on the machine."""
    file = place / _DOORWAY
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as written:
        target = html.escape(url)
        written.write(f'<!doctype html><title>Penchant</title><meta http-equiv="refresh" content="0;url={target}">')
    gone = threading.Timer(_DOORWAY_SECONDS, lambda: file.unlink(missing_ok=True))
    gone.daemon = True
    gone.start()
    try:
        webbrowser.open(file.as_uri())
        yield
    finally:
        gone.cancel()
        file.unlink(missing_ok=True)
