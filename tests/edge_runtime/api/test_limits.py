"""Rates and attempts, on a clock of our own."""

from __future__ import annotations

from edge_runtime.api.limits import Attempts, TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(2.0, 3, clock)
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take() == 0.5
    clock.now += 0.5
    assert bucket.take() == 0.0 and bucket.take() > 0
    clock.now += 1000
    assert [bucket.take() for _ in range(4)].count(0.0) == 3  # never more than the burst


def test_wrong_passphrases_cost_growing_pauses() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    pauses = []
    for _ in range(2000):
        attempts.failed()
        pauses.append(attempts.pause())
    assert pauses[:8] == [0, 0, 0, 1, 2, 4, 8, 16] and pauses[-1] == 300
    clock.now += 301
    assert attempts.pause() == 0
    attempts.failed()
    attempts.succeeded()
    assert attempts.pause() == 0
    attempts.failed()
    assert attempts.pause() == 0  # counted from the beginning again
