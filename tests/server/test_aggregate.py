from __future__ import annotations

import numpy as np
import pytest

from client.contribution import contribute
from client.work import LocalUpdate
from protocol.errors import PenchantError
from server.aggregate import RoundOutcome, decode_sum
from tests.client.test_ledger import task_of


def test_the_mean_divides_by_the_survivors_and_comes_back_from_storage() -> None:
    task = task_of(0, noise_multiplier=0.0)
    update = np.linspace(-0.1, 0.1, 50)
    parts = [contribute(task, LocalUpdate(update * k, 6.0, 3)) for k in (0, 1, 1, 2, 0, 2)]
    outcome = decode_sum(task, (np.sum(parts, axis=0) & 0xFFFF).astype(np.uint32), survivors=6)
    assert np.array_equal(outcome.integer_sum, np.sum(parts, axis=0))
    assert np.abs(outcome.mean_update - update).max() < 2e-3
    assert outcome.metrics["mean_loss"] == pytest.approx(2.0, abs=0.1)
    again = RoundOutcome.from_bytes(task, outcome.to_bytes())
    assert np.array_equal(again.mean_update, outcome.mean_update) and again.metrics == outcome.metrics


def test_more_survivors_than_the_minimum_mean_more_noise() -> None:
    task = task_of(0)
    zeros = np.zeros(53, dtype=np.uint32)
    assert decode_sum(task, zeros, 6).effective_noise_multiplier == pytest.approx(2.0)
    assert decode_sum(task, zeros, 9).effective_noise_multiplier == pytest.approx(2.0 * 1.5**0.5)


def test_a_damaged_outcome_says_so() -> None:
    with pytest.raises(PenchantError, match="damaged"):
        RoundOutcome.from_bytes(task_of(0), b"\xff")
