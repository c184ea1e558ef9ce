"""What the trainings of a device cost together: every step taken counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.dp_sgd import epsilon_spent
from client.training_ledger import TrainingLedger
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[TrainingLedger]:
    with Vault.open(tmp_path, bytes(range(32))) as opened:
        yield TrainingLedger(opened)


def taken(ledger: TrainingLedger, noise: float, rate: float, steps: int) -> int:
    run = ledger.open_run(noise, rate, 40)
    if steps:
        ledger.take(run, steps - 1)
    return run


def test_steps_count_once_and_never_go_down(ledger: TrainingLedger) -> None:
    run = taken(ledger, 1.1, 0.5, 0)
    assert ledger.epsilon(1e-3) == 0.0
    for step in (0, 1, 2, 1, 0):
        ledger.take(run, step)
    (entry,) = ledger.entries()
    assert (entry.steps, entry.planned, entry.noise_multiplier, entry.sampling_rate) == (3, 40, 1.1, 0.5)
    with pytest.raises(PenchantError, match="--fresh"):
        ledger.take(run + 1, 0)


def test_runs_compose_as_their_steps_do(ledger: TrainingLedger) -> None:
    taken(ledger, 1.1, 0.5, 7)
    assert ledger.epsilon(1e-3) == pytest.approx(epsilon_spent(1.1, 0.5, 7, 1e-3))
    taken(ledger, 1.1, 0.5, 5)  # say, abandoned after five of forty
    together = ledger.epsilon(1e-3)
    assert together == pytest.approx(epsilon_spent(1.1, 0.5, 12, 1e-3))
    taken(ledger, 2.0, 0.2, 10)
    assert together < ledger.epsilon(1e-3) < together + epsilon_spent(2.0, 0.2, 10, 1e-3)


def test_a_run_without_noise_leaves_no_guarantee(ledger: TrainingLedger) -> None:
    taken(ledger, 1.1, 0.5, 7)
    taken(ledger, 0.0, 1.0, 0)
    assert math.isfinite(ledger.epsilon(1e-3))
    taken(ledger, 0.0, 1.0, 1)
    assert ledger.epsilon(1e-3) == math.inf
