"""The command with which a device takes part in a fleet: `penchant join`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from client.enrol import PinnedFleet
from client.join import (
    enrolled_fleet,
    fetch_roster,
    join_request,
    keep_invitation,
    kept_invitation,
    node_key,
    read_invitation,
    serve,
)
from edge_runtime.commands.support import AsJson, Home, need, one_line_errors, opened_device, print_json
from edge_runtime.device import Device, default_home
from edge_runtime.store.keys import needs_passphrase
from protocol.errors import PenchantError
from protocol.invitation import FleetInvitation

SHORTEST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two looks at the list of members
PROMISE = """\
{fleet} asks this device to take part (invitation {fingerprint}).

What leaves this device: sums in which it is one of at least {cohort} people, clipped, with noise added here, and masked
so that only the sum of everybody can be read. No memory, no text and no model of yours leaves it.
What the fleet means to spend in all: epsilon {epsilon:g} at delta {delta:g}, for one person.
What this device allows, whatever the fleet means: epsilon {own:g}, rounds of {smallest} people or more.
"""


@one_line_errors
def join(
    invitation: Annotated[
        Path | None, typer.Argument(help="The fleet's invitation.", show_default="the one accepted last")
    ] = None,
    home: Home = None,
    request: Annotated[
        Path | None, typer.Option("--request", help="Where to write the join request.", show_default="beside you")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="After asking, stay and connect as soon as this device is enrolled.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to take part without being asked.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take part in a fleet: the first run asks to be enrolled, the next ones connect and stay until Ctrl-C."""
    need("flwr", "httpx")
    place = home or default_home()
    if not os.environ.get("PENCHANT_PASSPHRASE") and needs_passphrase(place) and sys.stdin.isatty():
        os.environ["PENCHANT_PASSPHRASE"] = str(typer.prompt("Passphrase", hide_input=True, err=True))
    with opened_device(home, create=invitation is not None) as device:
        invited = read_invitation(invitation) if invitation is not None else kept_invitation(device)
        _agree(device, invited, yes)
        keep_invitation(device, invited)
        roster = fetch_roster(invited)
        fleet = enrolled_fleet(device, invited, roster)
        key = node_key(device)
        if fleet is None:
            path = request or Path(f"join-{device.identity.public_bytes.hex()[:8]}.request")
            _write_request(path, join_request(device, invited))
            if as_json and not wait:
                print_json({"enrolled": False, "request": str(path), "fleet": invited.trust.fleet_id})
                return
            if roster is None:
                _say(f"The server at {invited.address} cannot be reached now.", as_json)
            _say(f"Asked to join {invited.trust.fleet_id}: send {path} to the fleet (it holds no secret).", as_json)
            if not wait:
                _say("When you hear that this device is enrolled, run the same command again.", as_json)
                return
            _say("Waiting to be enrolled. Ctrl-C ends.", as_json)
            fleet = _wait_for_enrolment(device, invited)
        if not device.may_contribute:
            raise PenchantError("this device is a copy of one that takes part; only one of them may")
        members = len(fleet.members)
    if as_json:
        print_json({"enrolled": True, "fleet": invited.trust.fleet_id, "members": members, "address": invited.address})
    _say(f"This device is one of {members} in {invited.trust.fleet_id}. Ctrl-C ends; nothing is lost.", as_json)
    stop = threading.Event()
    _stop_on_signals(stop)
    serve(place, invited, key, lambda line: _say(line, as_json), stop)
    _say("Disconnected. Start the same command again at any time.", as_json)


def _wait_for_enrolment(device: Device, invited: FleetInvitation) -> PinnedFleet:
    pause = SHORTEST_WAIT
    while (fleet := enrolled_fleet(device, invited, fetch_roster(invited))) is None:
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_WAIT)
    return fleet


def _say(line: str, as_json: bool) -> None:
    typer.echo(line, err=as_json)


def _agree(device: Device, invited: FleetInvitation, yes: bool) -> None:
    settings, promise = device.settings, invited.promise
    if settings.share:
        return
    typer.echo(
        PROMISE.format(
            fleet=invited.trust.fleet_id,
            fingerprint=invited.fingerprint,
            cohort=promise.smallest_cohort,
            epsilon=promise.epsilon,
            delta=promise.delta,
            own=settings.epsilon_budget,
            smallest=settings.minimum_roster,
        ),
        err=True,
    )
    if not yes:
        if not sys.stdin.isatty():
            raise PenchantError("taking part needs the owner's word: run penchant join in a terminal, or add --yes")
        if not typer.confirm("Take part?", err=True):
            raise PenchantError("nothing was sent and nothing was changed")
    device.change_settings(share=True)


def _write_request(path: Path, text: str) -> None:
    try:
        path.write_text(text, "ascii")
    except OSError as error:
        raise PenchantError(f"cannot write {path}: {error.strerror}; choose another place with --request") from None


def _stop_on_signals(stop: threading.Event) -> None:
    """The first Ctrl-C (or SIGTERM) lets the message in hand be answered; the second one ends at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
