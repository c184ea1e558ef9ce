"""Rounds with correlated noise over real devices: who is in, what is sent again, what the ledgers say."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from client.ledger import DeviceLedger
from edge_runtime.device import Device
from server.ledger import ServerLedger
from server.store import Store
from tests.fleet_help import (
    DIMENSION,
    MeanAlgorithm,
    grid_of,
    make_fleet,
    recorded_contributions,
    run_fleet,
    settings_of,
    vector_of,
)


def test_the_means_are_of_those_who_started_and_both_ledgers_agree(tmp_path: Path) -> None:
    homes = make_fleet(tmp_path / "devices", 12)
    settings = settings_of(rounds=6, noise_multiplier=0.0, cohort_size=4, spacing=3, bands=3, ring_bits=20)
    with recorded_contributions():
        result = run_fleet(grid_of(homes), settings, tmp_path / "out", MeanAlgorithm())
    assert [outcome.task.cohort_size for outcome in result.outcomes] == [4, 8, 12, 12, 12, 12]
    store = Store(tmp_path / "out" / "fleet.db")
    ledger = ServerLedger(store)
    starts: dict[int, list[str]] = {}
    for row in store.rounds("test"):
        assert ledger.starters(row.round_key) == 4
    assert len(ledger.by_person()) == 12
    ages = []
    for home in homes:
        with Device.open(home) as device:
            rows = device.vault.connection.execute("SELECT round, age FROM ledger ORDER BY round").fetchall()
            ages.append([age for _, age in rows])
            begin = [round for round, age in rows if age == 0]
            assert all(b - a >= 3 for a, b in pairwise(begin))
            assert DeviceLedger(device.vault).entries()
            starts.setdefault(begin[0], []).append(home.name)
    assert sorted(map(len, starts.values())) == [4, 4, 4]
    assert sorted(len(person) for person in ages) == [4] * 4 + [5] * 4 + [6] * 4
    for outcome in result.outcomes:
        people = [int(name) for name in starts[outcome.task.round % 3]]
        mean = np.mean([vector_of(person, DIMENSION) for person in people], axis=0)
        assert np.abs(outcome.mean_update - mean).max() < 2e-2
    store.close()
