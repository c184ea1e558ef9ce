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

    learning_rate, patience = 0.1, 3

    def __init__(self, steps: int = 20) -> None:
        self.steps = steps

    def gradient(self, theta: Vector, seed: int, step: int, rows: int) -> Vector:
        return np.ones_like(theta)

    def check(self, theta: Vector, step: int) -> float | None:
        return float(theta[0]) if step % 5 == 0 else None


def rates_of(steps: int) -> list[float]:
    work, rates = Scheduled(Slope(steps)), []
    for step in range(steps):
        work.gradient(np.zeros(2), 0, step, 1)
        rates.append(work.learning_rate)
    return rates


def test_it_warms_up_and_runs_out() -> None:
    work = Scheduled(Slope())
    rates, many = rates_of(20), rates_of(160)
    assert rates[:2] == pytest.approx([0.05, 0.095]) and rates[-1] == pytest.approx(0.1 / 20)
    assert many[:4] == pytest.approx([0.0125, 0.025, 0.0375, 0.05]) and many[-1] == pytest.approx(0.1 / 160)
    assert max(many) < 0.1 and many[8:] == sorted(many[8:], reverse=True) and rates[1:] == sorted(rates[1:])[::-1]
    assert rates_of(3)[0] == pytest.approx(0.1)
    assert (work.steps, work.patience, work.check(np.ones(1), 5), work.check(np.ones(1), 6)) == (20, 3, 1.0, None)


def test_a_step_is_as_long_as_its_rate_also_when_it_is_done_again() -> None:
    plan = RunPlan(Scheduled(Slope()), "", "", 1)
    state = new_state(plan, np.zeros(3), run=0, seed=0)
    states = [state]
    for _ in range(12):
        states.append(advance(states[-1], plan.work))
    lengths = [float(before.theta[0] - after.theta[0]) for before, after in pairwise(states)]
    assert lengths[:2] == pytest.approx([0.05, 0.095], rel=1e-6) and lengths[11] == pytest.approx(0.1 * 9 / 20)
    again = advance(states[5], Scheduled(Slope()))
    assert np.array_equal(again.theta, states[6].theta)
