"""Real devices for simulated people: one home folder, key and encrypted file each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from client.enrol import enrol, pinned_roster
from edge_runtime.device import Device
from edge_runtime.memory.statements import Statement
from simulations.people import Person

Advance = Callable[[float], None]


def create_homes(
    people: Sequence[Person],
    folder: Path,
    *,
    epsilon_budget: float,
    delta: float,
    on_progress: Advance = lambda fraction: None,
) -> list[Path]:
    """One device per person under ``folder``, holding what they wrote and chose before the split.

    Fleet members consent to share and pin the fleet's roster; newcomers share nothing.
    """
    homes = [folder / f"{number:04d}" for number in range(len(people))]
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
    for person, home in zip(people, homes, strict=True):
        if person.role == "fleet":
            with Device.open(home) as device:
                enrol(device, roster)
    return homes


def fleet_roster(home: Path) -> frozenset[bytes]:
    """The roster that an enrolled device has pinned; the simulated server is given the same."""
    with Device.open(home) as device:
        return pinned_roster(device)
