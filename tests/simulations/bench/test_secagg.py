"""Both secure sums of the benchmark are right, and ours sends a quarter of the bytes."""

from __future__ import annotations

import pytest

from protocol.errors import PenchantError
from protocol.round_plan import RoundPlan
from simulations.bench import secagg
from simulations.bench.flower_secagg import flower_round


def test_ours_plain_and_flowers_sums_are_checked_and_counted() -> None:
    task, keys, updates = secagg._fleet(6, 5000, seed=1)
    plan = RoundPlan.of(task)
    contributions = [plan.contribute(update, 0.0, 1) for update in updates]
    bytes_up, server = secagg.secure_round(task, keys, contributions)
    secagg.plain_round(task, contributions)
    flowers = flower_round(updates, shares=6)
    assert 2 * 5000 < bytes_up < 2 * 5000 + 6000 and server > 0
    assert flowers > 8 * 5000


def test_a_wrong_sum_stops_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    task, keys, updates = secagg._fleet(5, 64, seed=2)
    plan = RoundPlan.of(task)
    contributions = [plan.contribute(update, 0.0, 1) for update in updates]
    recover = secagg.ServerRound.recover_sum
    monkeypatch.setattr(secagg.ServerRound, "recover_sum", lambda server: recover(server) + 1)
    with pytest.raises(PenchantError, match="not the sum"):
        secagg.secure_round(task, keys, contributions)
