"""Fleets that are not in step: a stage closes at its deadline, and whoever answers later costs the round nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

import client.app
from client.ledger import DeviceLedger
from edge_runtime.device import Device
from simulations.experiments.local_grid import FIRST_DEVICE_NODE_ID, LocalGrid
from tests.fleet_help import MeanAlgorithm, make_fleet, recorded_contributions, run_fleet, settings_of

PEOPLE, SLOW = 6, 2


class SlowGrid(LocalGrid):
    """One device hears every message of `stage` in the first round only when `deliver` is called."""

    held: list[Message]
    stage = ""
    rounds_slow = "test/0/"

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        early = []
        for message in messages:
            slow = message.metadata.dst_node_id == FIRST_DEVICE_NODE_ID + SLOW
            first = message.metadata.group_id.startswith(self.rounds_slow)
            if slow and first and message.metadata.message_type.endswith(f".{self.stage}"):
                self.held.append(message)
            else:
                early.append(message)
        return [*super().push_messages(early), *(f"held-{number}" for number in range(len(self.held)))]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return super().pull_messages([name for name in message_ids if not name.startswith("held-")])

    def deliver(self) -> list[Message]:
        """What the slow device answers at last."""
        held, self.held = self.held, []
        return list(super().pull_messages(list(super().push_messages(held))))


@pytest.mark.parametrize("stage", ["advertise", "share", "collect"])
def test_with_a_quorum_nobody_waits_for_the_deadline(tmp_path: Path, stage: str) -> None:
    grid = SlowGrid(client.app.app, make_fleet(tmp_path / "devices", PEOPLE))
    grid.held, grid.stage = [], stage
    settings = settings_of(stage_seconds=3600.0, minimum_survivors=4, quorum=0.8)
    with recorded_contributions() as seen:
        (outcome,) = run_fleet(grid, settings, tmp_path / "out", MeanAlgorithm()).outcomes
    assert outcome.survivors == PEOPLE - 1
    parts = [seen[(outcome.task.digest(), person)] for person in range(PEOPLE) if person != SLOW]
    assert np.array_equal(outcome.integer_sum, np.sum(parts, axis=0))


def test_a_device_that_connects_late_is_in_the_next_round(tmp_path: Path) -> None:
    """It is asked who it is before every round, not only before the first."""
    homes = make_fleet(tmp_path / "devices", PEOPLE)

    class Arriving(LocalGrid):
        def get_node_ids(self) -> list[int]:
            everybody = list(super().get_node_ids())
            rounds = {entry.stage for entry in self.transfers}
            return everybody if "unmask" in rounds else everybody[:-1]

    with recorded_contributions():
        result = run_fleet(Arriving(client.app.app, homes), settings_of(rounds=2), tmp_path / "out", MeanAlgorithm())
    assert [outcome.survivors for outcome in result.outcomes] == [PEOPLE - 1, PEOPLE]


@pytest.mark.parametrize("stage", ["advertise", "share", "collect", "unmask"])
def test_a_device_that_answers_after_the_deadline_costs_its_round_nothing(tmp_path: Path, stage: str) -> None:
    homes = make_fleet(tmp_path / "devices", PEOPLE)
    grid = SlowGrid(client.app.app, homes)
    grid.held, grid.stage = [], stage
    settings = settings_of(rounds=2, stage_seconds=0.6, minimum_survivors=4)
    with recorded_contributions() as seen:
        result = run_fleet(grid, settings, tmp_path / "out", MeanAlgorithm())
        assert len(result.outcomes) == 2 and not result.aborted
        for outcome in result.outcomes:
            late = outcome.task.round == 0 and stage != "unmask"  # its upload was in time
            people = [person for person in range(PEOPLE) if not (late and person == SLOW)]
            assert outcome.survivors == len(people)
            parts = [seen[(outcome.task.digest(), person)] for person in people]
            assert np.array_equal(outcome.integer_sum, np.sum(parts, axis=0))
        assert len(grid.held) == 1
        (answer,) = grid.deliver()  # refused: by now a later round is open
        assert not answer.has_error()
    assert len(result.ledger) == 2
    with Device.open(homes[SLOW]) as device:
        rounds = [entry.round for entry in DeviceLedger(device.vault).entries()]
    assert rounds == ([0, 1] if stage == "unmask" else [1])  # it pays for what it gave, and only for that
