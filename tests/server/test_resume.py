"""The server is killed before and after every single transaction; a new one resumes and nothing is spent
twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import client.app
import client.stages
from client.ledger import DeviceLedger
from edge_runtime.device import Device
from protocol.errors import PenchantError
from server.fleet import FleetResult
from server.releases import ReleaseShelf
from server.store import Store
from tests.fleet_help import MeanAlgorithm, grid_of, make_fleet, recorded_contributions, run_fleet, settings_of

PEOPLE, ROUNDS = 3, 2


class KilledError(BaseException):
    """Stands for kill -9: not an Exception, so nothing may handle it."""


class MortalStore(Store):
    """Raises before the commit, or right after it, of transaction number `dies_at` (counted from 0)."""

    def __init__(self, path: Path, dies_at: int, after_commit: bool) -> None:
        super().__init__(path)
        self._connection.execute("PRAGMA synchronous=OFF")  # the kill is simulated, so nothing has to reach the disk
        self.dies_at, self.after_commit, self.count = dies_at, after_commit, 0
        self.labels: list[str] = []

    @contextmanager
    def transaction(self, label: str) -> Iterator[object]:
        mine, self.count = self.count, self.count + 1
        self.labels.append(label)
        with super().transaction(label) as connection:
            yield connection
            if mine == self.dies_at and not self.after_commit:
                raise KilledError(label)
        if mine == self.dies_at:
            raise KilledError(label)


def run(homes: list[Path], run_id: str, out: Path, **store: object) -> FleetResult:
    grid = grid_of(homes, slice_seconds=0.0)  # one reply per transaction: the finest grain there is
    settings = settings_of(run_id=run_id, rounds=ROUNDS, noise_multiplier=1.0)
    stores: list[MortalStore] = []

    def opener(path: Path) -> Store:
        stores.append(MortalStore(path, **{"dies_at": -1, "after_commit": False, **store}))
        return stores[-1]

    try:
        return run_fleet(grid, settings, out, MeanAlgorithm(), open_store=opener)
    finally:
        run.labels = stores[-1].labels  # type: ignore[attr-defined]


def test_killed_anywhere_it_resumes_to_the_same_sum_and_spends_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.releases.os.fsync", lambda descriptor: None)  # the machine stays up
    homes = make_fleet(tmp_path / "devices", PEOPLE)
    with recorded_contributions() as seen:
        run(homes, "clean", tmp_path / "clean")
        transactions = list(run.labels)  # type: ignore[attr-defined]
        assert {"spend", "unmask to publish", "publish to done", "collect replies"} <= set(transactions)
        # Before every commit; after a commit, nothing differs between two transitions of the same kind.
        points = [(number, False) for number in range(len(transactions))]
        points += [(transactions.index(label), True) for label in dict.fromkeys(transactions)]
        for dies_at, after_commit in points:
            seen.clear()
            name = f"killed-{dies_at}-{'after' if after_commit else 'before'}"
            out = tmp_path / name
            with pytest.raises(KilledError):
                run(homes, name, out, dies_at=dies_at, after_commit=after_commit)
            client.app.close_devices()  # the devices' processes may be fresh as well
            result = run(homes, name, out)
            assert len(result.outcomes) == ROUNDS and not result.aborted, (name, transactions[dies_at])
            for outcome in result.outcomes:
                assert outcome.survivors == PEOPLE
                parts = [seen[(outcome.task.digest(), person)] for person in range(PEOPLE)]
                assert np.array_equal(outcome.integer_sum, np.sum(parts, axis=0)), name
            assert len(seen) == ROUNDS * PEOPLE  # no device was made to contribute twice
            store = Store(out / "fleet.db")
            assert len(store.ledger_rows()) == ROUNDS
            assert [release.round for release in store.releases()] == list(range(ROUNDS))
            store.close()
            shelf = ReleaseShelf(out)
            assert [release.round for release in shelf.all()] == list(range(ROUNDS))
            for release in shelf.all():
                shelf.load(release)
    runs = len(points) + 1
    with Device.open(homes[0]) as device:
        assert len(DeviceLedger(device.vault).entries()) == runs * ROUNDS


def test_killed_while_the_survivors_sign_it_asks_for_the_same_and_spends_once(tmp_path: Path) -> None:
    """Five people need a fifth question; the unmask request of the resumed server is the one that was written."""
    homes = make_fleet(tmp_path / "devices", 5)
    with recorded_contributions() as seen:
        run(homes, "clean", tmp_path / "clean")
        labels = list(run.labels)  # type: ignore[attr-defined]
        first, last = labels.index("collect to confirm"), labels.index("unmask replies")
        assert "confirm replies" in labels[first:last] and "spend" in labels[first:last]
        for dies_at in range(first, last + 1):
            for after_commit in (False, True):
                name = f"killed-{dies_at}-{after_commit}"
                with pytest.raises(KilledError):
                    run(homes, name, tmp_path / name, dies_at=dies_at, after_commit=after_commit)
                client.app.close_devices()
                result = run(homes, name, tmp_path / name)
                assert len(result.outcomes) == ROUNDS and not result.aborted and len(result.ledger) == ROUNDS
                outcome = result.outcomes[0]
                parts = [seen[(outcome.task.digest(), person)] for person in range(5)]
                assert np.array_equal(outcome.integer_sum, np.sum(parts, axis=0)), labels[dies_at]


def test_killed_between_the_release_file_and_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = make_fleet(tmp_path / "devices", PEOPLE)
    publish = ReleaseShelf.publish

    def publish_and_die(self: ReleaseShelf, *args: object, **keywords: object) -> object:
        publish(self, *args, **keywords)  # type: ignore[arg-type]
        raise KilledError("after the file")

    with recorded_contributions():
        monkeypatch.setattr(ReleaseShelf, "publish", publish_and_die)
        with pytest.raises(KilledError):
            run(homes, "one", tmp_path / "out")
        monkeypatch.setattr(ReleaseShelf, "publish", publish)
        result = run(homes, "one", tmp_path / "out")
    assert [release.round for release in result.releases] == list(range(ROUNDS))


def test_a_finished_run_is_returned_without_asking_anybody(tmp_path: Path) -> None:
    homes = make_fleet(tmp_path / "devices", PEOPLE)
    with recorded_contributions():
        first = run(homes, "one", tmp_path / "out")
        grid = grid_of(homes)
        settings = settings_of(run_id="one", rounds=ROUNDS, noise_multiplier=1.0)
        again = run_fleet(grid, settings, tmp_path / "out", MeanAlgorithm())
    assert grid.transfers == [] and again.epsilon == first.epsilon > 0
    assert np.array_equal(again.outcomes[1].mean_update, first.outcomes[1].mean_update)


def test_a_run_may_be_extended_but_not_resumed_with_other_noise(tmp_path: Path) -> None:
    homes = make_fleet(tmp_path / "devices", PEOPLE)
    with recorded_contributions():
        run(homes, "one", tmp_path / "out")
        with pytest.raises(PenchantError, match="other settings"):
            other = settings_of(run_id="one", rounds=ROUNDS, noise_multiplier=0.5)
            run_fleet(grid_of(homes), other, tmp_path / "out", MeanAlgorithm())
        longer = settings_of(run_id="one", rounds=ROUNDS + 1, noise_multiplier=1.0)
        result = run_fleet(grid_of(homes), longer, tmp_path / "out", MeanAlgorithm())
    assert [outcome.task.round for outcome in result.outcomes] == list(range(ROUNDS + 1))


def test_the_ledger_composes_over_the_runs_of_a_store_and_stops_at_the_budget(tmp_path: Path) -> None:
    homes = make_fleet(tmp_path / "devices", PEOPLE)
    with recorded_contributions():
        one = run(homes, "one", tmp_path / "out")
        two = run(homes, "two", tmp_path / "out")
        assert two.epsilon > one.epsilon
        settings = settings_of(run_id="three", rounds=5, noise_multiplier=1.0, epsilon_budget=two.epsilon * 1.2)
        three = run_fleet(grid_of(homes), settings, tmp_path / "out", MeanAlgorithm())
    assert 0 < len(three.outcomes) < 5 and "budget" not in three.stopped and "above the fleet's" in three.stopped
    assert two.epsilon < three.epsilon <= two.epsilon * 1.2
