"""The server's ledger composes by person, over runs, before anything is released."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from protocol.accounting import Accountant
from protocol.round_plan import RoundPlan
from server.ledger import ServerLedger
from server.store import STAGES, Store
from tests.client.test_ledger import task_of

DELTA = 1e-5
EVENT = RoundPlan.of(task_of(0)).privacy_event()


def release(store: Store, number: int, people: list[str], run_id: str = "r", **changes: object) -> None:
    """One round up to its unmask stage, as `RoundRunner` does it."""
    task = task_of(number, run_id=run_id, **changes)
    row = store.open_round(run_id, number, int(changes.get("attempt", 0)), task.to_bytes(), people)
    before = STAGES[: STAGES.index("unmask")]
    for stage, following in pairwise(before):
        store.advance(row.round_key, stage, following, people)
    ServerLedger(store).spend(row, task, survivors=people)


def store_with(path: Path, *runs: str) -> Store:
    store = Store(path / "fleet.db")
    for run_id in runs:
        store.open_run(run_id, {})
    return store


def composed(times: int) -> float:
    return Accountant([EVENT] * times).epsilon(DELTA)


def test_a_second_run_of_the_same_people_starts_from_what_the_first_spent(tmp_path: Path) -> None:
    store = store_with(tmp_path, "spring")
    for number in range(2):
        release(store, number, ["aa", "bb"], "spring")
    assert ServerLedger(store).epsilon(DELTA) == pytest.approx(composed(2))
    store.close()
    again = store_with(tmp_path, "autumn")
    ledger = ServerLedger(again)
    assert ledger.epsilon(DELTA) == pytest.approx(composed(2))
    assert ledger.epsilon_after(task_of(0), DELTA) == pytest.approx(composed(3))
    release(again, 0, ["aa", "bb"], "autumn")
    assert ledger.epsilon(DELTA) == pytest.approx(composed(3))
    assert len(ledger.spends()) == 3


def test_who_is_in_both_of_two_overlapping_populations_pays_for_both(tmp_path: Path) -> None:
    store = store_with(tmp_path, "one", "two")
    release(store, 0, ["aa", "bb"], "one")
    release(store, 0, ["cc", "dd"], "two")
    ledger = ServerLedger(store)
    assert ledger.epsilon(DELTA) == pytest.approx(composed(1))  # nobody is in both
    assert ledger.epsilon_after(task_of(1), DELTA) == pytest.approx(composed(2))
    release(store, 1, ["bb", "cc"], "two")
    assert ledger.epsilon(DELTA) == pytest.approx(composed(2))
    assert {person: sum(event.count for event in events) for person, events in ledger.by_person().items()} == {
        "aa": 1, "bb": 2, "cc": 2, "dd": 1,
    }  # fmt: skip
    assert ledger.epsilon_after(task_of(2), DELTA, ["aa", "dd"]) == pytest.approx(composed(2))
    assert ledger.epsilon_after(task_of(2), DELTA, ["aa", "cc"]) == pytest.approx(composed(3))


def test_the_spend_is_on_disk_before_anybody_is_asked_to_unmask(tmp_path: Path) -> None:
    store = store_with(tmp_path, "r")
    release(store, 0, ["aa", "bb"])
    other = Store(tmp_path / "fleet.db")  # another process, after a crash
    assert other.rounds("r")[0].stage == "unmask" and other.outcome(1) is None
    assert ServerLedger(other).epsilon(DELTA) == pytest.approx(composed(1))
    assert json.loads(other.ledger_rows()[0].event)["mechanism"] == "skellam"


def test_another_attempt_at_a_round_is_another_spend(tmp_path: Path) -> None:
    store = store_with(tmp_path, "r")
    release(store, 0, ["aa"])
    release(store, 0, ["aa"], attempt=1)
    assert ServerLedger(store).epsilon(DELTA) == pytest.approx(composed(2))


def test_later_uploads_of_a_participation_cost_what_they_are(tmp_path: Path) -> None:
    banded = {"strategy": (1.0, 0.5), "spacing": 2}
    plan = RoundPlan.of(task_of(0, **banded))
    store = store_with(tmp_path, "r")
    release(store, 0, ["aa"], **banded)
    release(store, 1, ["aa", "bb"], **banded)
    ledger = ServerLedger(store)
    assert ledger.starts("r") == {"aa": 0, "bb": 1}
    assert ledger.by_person()["aa"] == (plan.privacy_event(age=0), plan.privacy_event(age=1))
    release(store, 2, ["aa", "bb"], **banded)
    assert ledger.starts("r") == {"aa": 2, "bb": 1}
    assert [ledger.starters(row.round_key) for row in store.rounds("r")] == [1, 1, 1]
    events = [plan.privacy_event(age=age) for age in (0, 1, 0)]
    assert ledger.epsilon(DELTA) == pytest.approx(Accountant(events).epsilon(DELTA), rel=1e-6)


def test_nothing_released_is_nothing_spent(tmp_path: Path) -> None:
    assert ServerLedger(store_with(tmp_path)).epsilon(DELTA) == 0.0
