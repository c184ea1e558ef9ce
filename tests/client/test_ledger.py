"""The device's ledger: counts once, composes, refuses, and belongs to the task it was written for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from client.ledger import DeviceLedger
from edge_runtime.device import DeviceSettings
from edge_runtime.store.vault import Vault
from protocol.accounting import Accountant
from protocol.errors import BudgetExceeded, ProtocolError
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan, plan_task


def task_of(round: int, **changes: Any) -> RoundTask:
    values: dict[str, Any] = {
        "run_id": "r", "round": round, "kind": "shared", "artefacts": {}, "base_sha256": "0" * 64,
        "dimension": 50, "clip_norm": 1.0, "noise_multiplier": 2.0, "cohort_size": 9, "minimum_survivors": 6,
        "delta": 1e-5, "rotation_seed": 1, "graph_seed": 1, **changes,
    }  # fmt: skip
    return plan_task(**values)


@pytest.fixture
def ledger(tmp_path: Path) -> DeviceLedger:
    return DeviceLedger(Vault.open(tmp_path, b"k" * 32))


def test_epsilon_is_that_of_all_entries_together(ledger: DeviceLedger) -> None:
    for number in range(3):
        ledger.write(task_of(number), size_bytes=100, roster_size=9)
    event = RoundPlan.of(task_of(0)).privacy_event()
    assert ledger.epsilon(1e-5) == pytest.approx(Accountant([event] * 3).epsilon(1e-5), rel=1e-9)
    assert [entry.round for entry in ledger.entries()] == [0, 1, 2]


def test_the_same_contribution_is_entered_once(ledger: DeviceLedger) -> None:
    for _ in range(2):
        ledger.write(task_of(0), size_bytes=100, roster_size=9)
    assert len(ledger.entries()) == 1


def test_it_refuses_the_round_that_would_exceed_the_budget_and_no_earlier_one(ledger: DeviceLedger) -> None:
    two = Accountant([RoundPlan.of(task_of(0)).privacy_event()] * 2).epsilon(1e-5)
    settings = DeviceSettings(share=True, epsilon_budget=two * 1.001, delta=1e-5)
    for number in range(2):
        ledger.refuse_overspending(task_of(number), settings)
        ledger.write(task_of(number), size_bytes=100, roster_size=9)
    ledger.refuse_overspending(task_of(1), settings)  # counted already
    with pytest.raises(BudgetExceeded, match="the owner allows"):
        ledger.refuse_overspending(task_of(2), settings)


def test_another_task_under_a_counted_number_is_not_free(ledger: DeviceLedger) -> None:
    settings = DeviceSettings(share=True, epsilon_budget=3.0, delta=1e-5)
    ledger.write(task_of(0), size_bytes=100, roster_size=9)
    with pytest.raises(BudgetExceeded):
        ledger.refuse_overspending(task_of(0, noise_multiplier=0.1), settings)


def test_a_round_without_noise_needs_an_infinite_budget(ledger: DeviceLedger) -> None:
    bare = task_of(0, noise_multiplier=0.0)
    with pytest.raises(BudgetExceeded, match="no noise"):
        ledger.refuse_overspending(bare, DeviceSettings(share=True, epsilon_budget=1e6))
    ledger.refuse_overspending(bare, DeviceSettings(share=True, epsilon_budget=math.inf))


def test_a_second_run_starts_from_what_the_first_spent(tmp_path: Path) -> None:
    """Another run, another fleet, another process: the budget is the owner's, not a run's."""
    first = DeviceLedger(Vault.open(tmp_path, b"k" * 32))
    for number in range(2):
        first.write(task_of(number, run_id="spring"), size_bytes=100, roster_size=9)
    spent = first.epsilon(1e-5)
    again = DeviceLedger(Vault.open(tmp_path, b"k" * 32))
    assert again.epsilon(1e-5) == spent > 0
    settings = DeviceSettings(share=True, epsilon_budget=spent * 1.01, delta=1e-5)
    with pytest.raises(BudgetExceeded):
        again.refuse_overspending(task_of(0, run_id="autumn"), settings)
    again.write(task_of(0, run_id="autumn"), size_bytes=100, roster_size=9)
    event = RoundPlan.of(task_of(0)).privacy_event()
    assert again.epsilon(1e-5) == pytest.approx(Accountant([event] * 3).epsilon(1e-5), rel=1e-9)


def test_a_round_sooner_than_the_spacing_promised_is_refused(ledger: DeviceLedger) -> None:
    settings = DeviceSettings(share=True, epsilon_budget=math.inf)
    ledger.write(task_of(4, spacing=3), size_bytes=100, roster_size=9)
    for number in (3, 5, 6):
        with pytest.raises(ProtocolError, match="may start in round 7"):
            ledger.refuse_overspending(task_of(number, spacing=3), settings)
    ledger.refuse_overspending(task_of(4, spacing=3), settings)  # counted already
    ledger.refuse_overspending(task_of(7, spacing=3), settings)
    ledger.refuse_overspending(task_of(5), settings)  # no spacing is promised by this task
    ledger.refuse_overspending(task_of(5, spacing=3, run_id="other"), settings)  # counted, not forbidden
    with pytest.raises(ProtocolError):
        ledger.write(task_of(5, spacing=3), size_bytes=100, roster_size=9)
    assert len(ledger.entries()) == 1


def test_later_uploads_of_one_participation_cost_less_and_do_not_start_another(ledger: DeviceLedger) -> None:
    banded = {"strategy": (1.0, 0.5, 0.25), "spacing": 5}
    assert [ledger.age(task_of(2, **banded))] == [0]
    ages, costs = [], []
    for number in (2, 3, 4):
        before = ledger.epsilon(1e-5)
        ledger.write(task_of(number, **banded), size_bytes=100, roster_size=9)
        ages.append(ledger.age(task_of(number, **banded)))
        costs.append(ledger.epsilon(1e-5) - before)
    assert ages == [0, 1, 2] and costs == sorted(costs, reverse=True)
    for number in (5, 6):  # over, and the next not yet due
        with pytest.raises(ProtocolError, match="may start in round 7"):
            ledger.age(task_of(number, **banded))
    assert ledger.age(task_of(7, **banded)) == 0
    events = [RoundPlan.of(task_of(0, **banded)).privacy_event(age=age) for age in range(3)]
    assert ledger.epsilon(1e-5) == pytest.approx(Accountant(events).epsilon(1e-5), rel=1e-6)
    assert ledger.epsilon(1e-5) < Accountant([events[0]] * 3).epsilon(1e-5) * 0.8
