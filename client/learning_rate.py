"""A learning rate that warms up and runs out, around any work of a training run.

    rate(t) = peak * min( (t + 1) / w,  1 - t / T ),      t = 0 ... T - 1 steps,   w = max(1, min(WARM_UP, T / 8))

Adam's first steps move every number by nearly the rate, whatever its gradient (its moments hold one gradient only); in
a frame of all layers that is as far as much of the training goes. The last steps are small so that the order of the
last texts does not decide. The rate follows from the step alone, so a run that was killed goes on to the same bits.
"""

from __future__ import annotations

from typing import Final

from client.training_run import Work
from protocol.frames import Vector

WARM_UP: Final = 8


class Scheduled:
    """``training_run.Work`` whose ``learning_rate`` is that of the step whose gradient was asked for last."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.steps, self.patience = work.steps, work.patience
        self._warm_up = max(1, min(WARM_UP, work.steps // 8))
        self.learning_rate = self._rate(0)

    def gradient(self, theta: Vector, seed: int, step: int, rows: int) -> Vector:
        """As ``Work.gradient``."""
        self.learning_rate = self._rate(step)
        return self._work.gradient(theta, seed, step, rows)

    def check(self, theta: Vector, step: int) -> float | None:
        """As ``Work.check``."""
        return self._work.check(theta, step)

    def _rate(self, step: int) -> float:
        return self._work.learning_rate * min((step + 1) / self._warm_up, 1.0 - step / self.steps)
