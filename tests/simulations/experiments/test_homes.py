"""Homes of simulated people: what each device holds, who shares, and who is enrolled."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.enrol import pinned_fleet
from edge_runtime import device as device_module
from edge_runtime.device import Device
from protocol.errors import PenchantError
from simulations.experiments.homes import create_homes
from simulations.people import Person
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.simulations.people_help import invented_people

PEOPLE = invented_people(fleet=3, newcomers=2)


@pytest.fixture(autouse=True)
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_default_embedder", HashingEmbedder)


def made(folder: Path, people: list[Person] = PEOPLE) -> list[Path]:
    return create_homes(people, folder, epsilon_budget=3.5, delta=1e-4)[0]


def test_a_device_holds_what_its_person_wrote_and_chose_before_the_split(tmp_path: Path) -> None:
    homes = made(tmp_path)
    assert homes == [tmp_path / f"{number:04d}" for number in range(len(PEOPLE))]
    for person, home in zip(PEOPLE, homes, strict=True):
        with Device.open(home) as device:
            remembered = [(item.said_at, item.cue, item.text) for item in device.memory.items()]
            assert remembered == [(row.date, row.cue, row.text) for row in person.train_messages]
            chosen = [(one.said_at, one.prompt, one.chosen, one.rejected) for one in device.feedback.preferences()]
            assert chosen == [(row.date, row.prompt, row.chosen, row.rejected) for row in person.train_choices]


def test_the_fleet_shares_under_its_budget_and_newcomers_share_nothing(tmp_path: Path) -> None:
    for person, home in zip(PEOPLE, made(tmp_path), strict=True):
        with Device.open(home) as device:
            settings = device.settings
            assert settings.share == (person.role == "fleet")
            assert (settings.epsilon_budget, settings.delta) == (3.5, 1e-4)


def test_the_fleet_pins_exactly_the_fleet(tmp_path: Path) -> None:
    homes, identities = made(tmp_path), []
    for home in homes:
        with Device.open(home) as device:
            identities.append(device.identity.public_bytes)
    assert len(set(identities)) == len(PEOPLE)
    for home in homes[:3]:
        with Device.open(home) as device:
            assert pinned_fleet(device).members == frozenset(identities[:3])
    for home in homes[3:]:
        with Device.open(home) as device, pytest.raises(PenchantError, match="enrolled in no fleet"):
            pinned_fleet(device)


def test_progress_goes_up_to_one(tmp_path: Path) -> None:
    told: list[float] = []
    create_homes(PEOPLE, tmp_path, epsilon_budget=1.0, delta=1e-5, on_progress=told.append)
    assert told == sorted(told) and told[-1] == 1.0 and len(told) == len(PEOPLE)
