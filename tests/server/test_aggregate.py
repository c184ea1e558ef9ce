from __future__ import annotations

import numpy as np
import pytest

from client.contribution import contribute
from client.work import LocalUpdate
from protocol.errors import PenchantError
from protocol.round_plan import RoundPlan
from server.aggregate import RoundOutcome, decode_sum, decorrelate
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


def test_rounds_with_correlated_noise_give_the_means_of_those_who_started() -> None:
    banded, rng = (
        {"strategy": (1.0, 0.6), "spacing": 2, "noise_multiplier": 0.0, "ring_bits": 20},
        np.random.default_rng(0),
    )
    groups = {0: range(0, 4), 1: range(4, 9)}
    outcomes, wanted, kept = [], [], {}
    for number in range(4):
        task = task_of(number, **banded)
        total = np.zeros(53, dtype=np.int64)
        for parity, people in groups.items():
            for person in people:
                if (number - parity) % 2 == 0:
                    kept[person] = rng.normal(size=50) / 20
                if person in kept:
                    total += RoundPlan.of(task).contribute(kept[person], 2.0, 1, age=(number - parity) % 2)
        wanted.append(np.mean([kept[person] for person in groups[number % 2]], axis=0))
        outcomes.append(decode_sum(task, (total & 0xFFFFF).astype(np.uint32), survivors=9))
    corrected = decorrelate(outcomes, [4, 5, 4, 5])
    for outcome, mean in zip(corrected, wanted, strict=True):
        assert np.abs(outcome.mean_update - mean).max() < 3e-3
        assert outcome.mean_loss == pytest.approx(2.0, abs=0.1)
    assert np.abs(outcomes[1].mean_update - wanted[1]).max() > 3e-2  # and it was needed
    assert decorrelate([], []) == []
    for wrong, starters in [(outcomes[1:], [5, 4, 5]), (outcomes, [4, 5, 4]), (outcomes, [4, 5, 0, 5])]:
        with pytest.raises(PenchantError):
            decorrelate(wrong, starters)


def test_the_noise_of_a_mean_is_what_it_says() -> None:
    """Both kinds of rounds: measured on sums of nothing but noise."""
    banded = {"strategy": (1.0, 0.7, 0.5), "spacing": 3, "dimension": 3000, "ring_bits": 20}
    plans = [RoundPlan.of(task_of(number, **banded)) for number in range(6)]
    noise = [sum(plan.noise.sample_share(3003) for _ in range(9)) for plan in plans]
    outcomes = [
        decode_sum(plan.task, (total & 0xFFFFF).astype(np.uint32), survivors=9)
        for plan, total in zip(plans, noise, strict=True)
    ]
    for outcome in [*outcomes, *decorrelate(outcomes, [3] * 6)]:
        assert float(outcome.mean_update.std()) == pytest.approx(outcome.noise_deviation, rel=0.06)
    assert decorrelate(outcomes, [3] * 6)[5].noise_deviation > 3 * outcomes[5].noise_deviation
    assert outcomes[0].metrics["noise_deviation"] == outcomes[0].noise_deviation
