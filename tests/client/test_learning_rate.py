"""The rate rises, falls, and depends on the step alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from client.learning_rate import Scheduled
from client.training_run import RunPlan, advance, new_state
from protocol.frames import Vector


class Slope:
    """Every step has the same gradient; every fifth is checked."""

    steps, learning_rate, patience = 20, 0.1, 3

    def gradient(self, theta: Vector, seed: int, step: int, rows: int) -> Vector:
        return np.ones_like(theta)

    def check(self, theta: Vector, step: int) -> float | None:
        return float(theta[0]) if step % 5 == 0 else None


def test_it_warms_up_and_runs_out() -> None:
    work, rates = Scheduled(Slope()), []
    for step in range(20):
        work.gradient(np.zeros(2), 0, step, 1)
        rates.append(work.learning_rate)
    assert rates[:4] == pytest.approx([0.0125, 0.025, 0.0375, 0.05]) and rates[-1] == pytest.approx(0.1 / 20)
    assert max(rates) < 0.1 and rates[8:] == sorted(rates[8:], reverse=True)
    assert (work.steps, work.patience, work.check(np.ones(1), 5), work.check(np.ones(1), 6)) == (20, 3, 1.0, None)


def test_a_step_is_as_long_as_its_rate_also_when_it_is_done_again() -> None:
    plan = RunPlan(Scheduled(Slope()), "", "", 1)
    state = new_state(plan, np.zeros(3), run=0, seed=0)
    states = [state]
    for _ in range(12):
        states.append(advance(states[-1], plan.work))
    lengths = [float(before.theta[0] - after.theta[0]) for before, after in pairwise(states)]
    assert lengths[:2] == pytest.approx([0.0125, 0.025], rel=1e-6) and lengths[11] == pytest.approx(0.1 * 9 / 20)
    again = advance(states[5], Scheduled(Slope()))
    assert np.array_equal(again.theta, states[6].theta)
