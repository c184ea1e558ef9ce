"""Steps of several runs compose as one accountant that was told of all of them says."""

from __future__ import annotations

import pytest

from client.opacus_epsilon import gaussian_epsilon


def test_runs_compose_and_cost_more_than_each() -> None:
    from opacus.accountants import PRVAccountant

    history, oracle = [(1.2, 0.5, 3), (0.9, 0.25, 4)], PRVAccountant()
    for noise, rate, steps in history:
        for _ in range(steps):
            oracle.step(noise_multiplier=noise, sample_rate=rate)
    found = gaussian_epsilon(history, 1e-3)
    assert found == pytest.approx(oracle.get_epsilon(delta=1e-3), rel=1e-9)
    assert found > max(gaussian_epsilon([one], 1e-3) for one in history)


def test_next_to_no_noise_promises_next_to_nothing() -> None:
    assert gaussian_epsilon([(1e-9, 0.5, 3)], 1e-3) > 1e3
