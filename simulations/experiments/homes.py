"""Real devices for simulated people: one home folder, key and encrypted file each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from client.enrol import enrol
from edge_runtime.device import Device
from edge_runtime.memory.statements import Statement
from protocol.fleet_trust import FleetAuthority
from protocol.keys import SigningKey
from server.credentials import ServerCredentials
from simulations.people import Person

Advance = Callable[[float], None]


def create_homes(
    people: Sequence[Person],
    folder: Path,
    *,
    epsilon_budget: float,
    delta: float,
    on_progress: Advance = lambda fraction: None,
) -> tuple[list[Path], ServerCredentials]:
    """One device per person under ``folder``, holding what they wrote and chose before the split.

    Fleet members consent to share and are enrolled by an authority made for them; newcomers share nothing. Returns
    the homes and what the fleet's server needs.
    """
    homes = home_folders(folder, len(people))
    roster = []
    for done, (person, home) in enumerate(zip(people, homes, strict=True)):
        with Device.open(home, create=True, key_method="file") as device:
            device.memory.remember_many(
                Statement(message.text, message.cue, message.date) for message in person.train_messages
            )
            for choice in person.train_choices:
                device.feedback.add_preference(choice.prompt, choice.chosen, choice.rejected, said_at=choice.date)
            device.change_settings(share=person.role == "fleet", epsilon_budget=epsilon_budget, delta=delta)
            if person.role == "fleet":
                roster.append(device.identity.public_bytes)
        on_progress((done + 1) / len(homes))
    authority = FleetAuthority("simulation", SigningKey.generate())
    credentials = ServerCredentials.issue(authority, frozenset(roster))
    for person, home in zip(people, homes, strict=True):
        if person.role == "fleet":
            with Device.open(home) as device:
                enrol(device, credentials.invitation, credentials.roster)
    return homes, credentials


def home_folders(folder: Path, count: int) -> list[Path]:
    """Where the homes of ``count`` people lie, in their order."""
    return [folder / f"{number:04d}" for number in range(count)]
