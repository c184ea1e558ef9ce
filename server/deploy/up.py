"""`fleet up`: the SuperLink, the run and the dashboard in one process, until the run is over or the operator ends it.

Nothing of the run lives only in this process. Killed at any point and started again, it opens the same store, lets the
same devices in, and goes on with the round it was in; the devices give the same bytes to the same questions.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from protocol.errors import PenchantError
from server import app
from server.credentials import ServerCredentials
from server.deploy.certificates import days_left
from server.deploy.enrolment import read_members
from server.deploy.folder import FleetConfig, FleetFolder, RunConfig, load
from server.deploy.grid import LinkGrid
from server.deploy.live import LiveState, read_live
from server.deploy.superlink import SuperLink
from server.fleet import FleetResult, run_fleet
from server.round import Progress

WATCH_SECONDS = 1.0
WARN_DAYS = 30
PATH_KEYS = ("frame",)
Say = Callable[[str], None]


def up(root: Path, say: Say, *, host: str | None = None) -> FleetResult:
    """Serve the fleet in `root` and run its rounds. `host`: the address to listen on, instead of the configuration's.

    PenchantError if another server runs there, a file is missing, or a round could not be finished (start again).
    """
    folder, config = load(root)
    settings = app.settings_from(config.run)
    credentials = ServerCredentials.load(folder.credentials)
    if not credentials.members:
        raise PenchantError(f"nobody is enrolled: penchant fleet enrol {root} REQUEST...")
    if (days := days_left(folder.read(folder.key("tls.pem")))) < WARN_DAYS:
        say(f"The TLS certificate runs out in {days} days: penchant fleet certify {root}")
    algorithm = app.algorithm_factory(_run_config(folder, config), folder.out)
    with ExitStack() as stack:
        stack.enter_context(_alone(folder))
        link = SuperLink(
            host or config.host,
            config.port,
            folder.key("tls.pem"),
            folder.key("tls.key"),
            folder.key("ca.pem"),
            lambda: folder.read(folder.roster),
        )
        link.admit(_keys(folder))
        link.start()
        stack.callback(link.stop)
        if config.dashboard_port:
            stack.enter_context(_dashboard(root, config, say))
        grid = LinkGrid(link.state)
        stack.callback(grid.close)
        watch = stack.enter_context(_Watch(folder, link, grid))
        say(f"{config.name}: serving {len(credentials.members)} members on {host or config.host}:{config.port} (TLS).")
        _wait_for(grid, config.wait_for, say)

        def follow(progress: Progress) -> None:
            watch.note(progress)
            say(_line(progress))

        return run_fleet(
            grid, settings, folder.out, algorithm, follow, credentials=credentials, open_store=config.open_store
        )


def _run_config(folder: FleetFolder, config: FleetConfig) -> RunConfig:
    """The run configuration with its paths taken from the fleet's folder."""
    run = dict(config.run)
    for key in PATH_KEYS:
        if run.get(key):
            run[key] = str(folder.root / str(run[key]))
    return run


def _keys(folder: FleetFolder) -> list[bytes]:
    return [member.node_key.encode("ascii") for member in read_members(folder).members]


@contextmanager
def _alone(folder: FleetFolder) -> Iterator[None]:
    """Only one server per fleet: a lock that the system lifts when this process ends, however it ends."""
    with open(os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o600), "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise PenchantError("this fleet's server is running already: penchant fleet status shows it") from None
        yield


@contextmanager
def _dashboard(root: Path, config: FleetConfig, say: Say) -> Iterator[None]:
    from server.deploy.dashboard import serve_dashboard  # FastAPI: not for a server without a dashboard

    with serve_dashboard(root, config.dashboard_port) as address:
        say(f"Dashboard: {address}")
        yield


def _wait_for(grid: LinkGrid, wanted: int, say: Say) -> None:
    shown = -1
    while (online := len(list(grid.get_node_ids()))) < wanted:
        if online != shown:
            say(f"Waiting for devices: {online} of {wanted} are connected.")
            shown = online
        time.sleep(WATCH_SECONDS / 2)


class _Watch:
    """A thread that lets newly enrolled devices in and writes the live state."""

    def __init__(self, folder: FleetFolder, link: SuperLink, grid: LinkGrid) -> None:
        self._folder, self._link, self._grid = folder, link, grid
        self._before = read_live(folder.live)
        self._now = LiveState(process=os.getpid())
        self._members_at = -1.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penchant-watch", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._now = replace(self._now, process=0, online=0)
        self._save()

    def note(self, progress: Progress) -> None:
        """Take in where the run stands."""
        self._now = replace(
            self._now,
            round=progress.round,
            attempt=progress.attempt,
            stage=progress.stage,
            answered=progress.answered,
            asked=progress.asked,
        )

    def _run(self) -> None:
        while not self._ended.is_set():
            changed = self._folder.members.stat().st_mtime
            if changed != self._members_at:
                self._link.admit(_keys(self._folder))
                self._members_at = changed
            members = read_members(self._folder).members
            self._now = replace(self._now, online=len(list(self._grid.get_node_ids())), enrolled=len(members))
            self._save()
            self._ended.wait(WATCH_SECONDS)

    def _save(self) -> None:
        up, down = self._before.bytes_up + self._grid.bytes_up, self._before.bytes_down + self._grid.bytes_down
        replace(self._now, bytes_up=up, bytes_down=down).save(self._folder.live)


def _line(progress: Progress) -> str:
    place = "roll call" if progress.round < 0 else f"round {progress.round + 1}, attempt {progress.attempt + 1}"
    note = f"  {progress.note}" if progress.note else ""
    return f"{place}: {progress.stage} {progress.answered}/{progress.asked}{note}"
