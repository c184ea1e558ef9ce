"""Rounds treat every strategy alike: clip rule, price in privacy, shrinking; rates come from other people."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulations.strategies.frame_coordinates import FrameCoordinates
from simulations.strategies.rounds import run_rounds, tune
from simulations.strategies.strategy import Strategy, Upload
from tests.client.framed_help import tiny_frame
from tests.simulations.strategies.strategy_help import person_texts


class _Constant(Strategy[Any, Any]):
    """Everybody offers the same vector; the state is the list of means."""

    name = "constant"

    def __init__(self, sums: int, length: float, size: int = 50) -> None:
        self.sums_per_round, self.length, self.size = sums, length, size  # type: ignore[misc]

    numbers_trained = 0

    def start(self) -> Any:
        return []

    def dimension(self, state: Any) -> int:
        return self.size

    def release(self, state: Any) -> bytes:
        return b""

    def upload(self, state: Any, own: Any, data: Any, seed: int) -> Upload:
        return Upload(np.full(self.size, self.length / np.sqrt(self.size)), 1.0, (own or 0) + 1)

    def absorb(self, state: Any, mean: Any) -> Any:
        return [*state, mean]

    def adapter(self, state: Any, own: Any) -> Any:
        return {}


def test_clips_hold_and_what_people_keep_is_handed_on() -> None:
    people: list[Any] = [None] * 4
    result = run_rounds(_Constant(2, 2.0), people, rounds=3, clips=(1.0, 0.5))
    assert [round(float(np.linalg.norm(mean)), 2) for mean in result.state] == [1.0, 0.5] * 3
    assert result.own == (6, 6, 6, 6) and np.allclose(result.lengths, np.full((2, 4), 2.0))


def test_a_round_of_two_sums_pays_with_more_noise_in_each() -> None:
    people: list[Any] = [None] * 4

    def noise_of(sums: int) -> float:
        strategy = _Constant(sums, 300.0, 2000)  # so strong that shrinking leaves it alone
        means = run_rounds(strategy, people, rounds=1, clips=(300.0,) * sums, noise_multiplier=0.01).state
        return float(means[0].std())

    assert noise_of(2) == pytest.approx(np.sqrt(2.0) * noise_of(1), rel=0.1)


def test_a_sum_drowned_in_noise_changes_nothing() -> None:
    people: list[Any] = [None] * 4
    result = run_rounds(_Constant(1, 1.0), people, rounds=1, clips=(1.0,), noise_multiplier=50.0)
    assert float(np.linalg.norm(result.state[0])) < 5.0  # unshrunk it would be about 90


def test_the_rate_is_the_best_on_people_who_are_in_no_reported_sum() -> None:
    train, held_out = [person_texts(person) for person in (0, 1, 2)], [person_texts(person) for person in (3, 4, 5)]
    strategy = FrameCoordinates(tiny_frame(), 0.0)
    tuned = tune(strategy, (1e-5, 0.02), train, train, rounds=2, seed=0)
    assert tuned.rate == 0.02 == tuned.strategy.rate  # type: ignore[attr-defined]
    lengths = run_rounds(tuned.strategy, train, rounds=1).lengths[0]
    assert np.allclose(tuned.clips, [np.median(lengths)])
    assert tune(strategy, (0.02,), train, held_out, rounds=1, seed=0).clips == tuned.clips
