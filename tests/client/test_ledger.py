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
from protocol.errors import BudgetExceeded
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
