"""What a device adds to the sum: clipped, rounded, noised at the scale the task says."""

from __future__ import annotations

import numpy as np
import pytest

from client.contribution import contribute
from client.work import LocalUpdate
from protocol.errors import ProtocolError
from protocol.round_plan import RoundPlan
from tests.client.test_ledger import task_of


def update_of(norm: float, seed: int = 3) -> LocalUpdate:
    draws = np.random.default_rng(seed).normal(size=50)
    return LocalUpdate(norm * draws / np.linalg.norm(draws), loss_sum=8.0, example_count=4)


def test_without_noise_it_decodes_to_the_clipped_update() -> None:
    task = task_of(0, noise_multiplier=0.0, minimum_survivors=2)
    plan = RoundPlan.of(task)
    for norm, factor in ((0.5, 1.0), (4.0, 0.25)):
        values = contribute(task, update_of(norm))
        decoded = plan.layout.unpack(plan.codec.decode((values & 0xFFFF).astype(np.uint32)), 1, task.clip_norm)
        assert np.abs(decoded.update - factor * update_of(norm).update).max() < 5e-3
        assert decoded.fraction_not_clipped == pytest.approx(float(factor == 1.0), abs=0.05)
        assert decoded.loss == pytest.approx(2.0, abs=0.2)


def test_the_noise_has_the_planned_variance_and_is_fresh() -> None:
    task = task_of(0)
    plan = RoundPlan.of(task)
    zero = LocalUpdate(np.zeros(50), 0.0, 0)
    draws = np.array([contribute(task, zero) for _ in range(400)])
    assert not np.array_equal(draws[0], draws[1])
    assert draws.var(axis=0).mean() == pytest.approx(plan.noise.share_variance, rel=0.05)


def test_a_broken_update_becomes_a_bounded_one_and_a_wrong_shape_is_refused() -> None:
    task = task_of(0, noise_multiplier=0.0)
    broken = LocalUpdate(np.full(50, np.nan), float("nan"), 3)
    values = contribute(task, broken)
    assert np.linalg.norm(values) <= RoundPlan.of(task).codec.rounded_sensitivity
    with pytest.raises(ProtocolError):
        contribute(task, LocalUpdate(np.zeros(49), 0.0, 1))
