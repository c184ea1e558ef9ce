"""Held-out loss against the time that the training took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """``losses[p]`` (nats per held-out token) after p passes over ``texts`` texts and ``seconds[p]`` of training."""

    seconds: tuple[float, ...]
    losses: tuple[float, ...]
    texts: float

    @property
    def best(self) -> int:
        """The number of passes after which the loss is lowest."""
        return int(np.argmin(self.losses))

    def rate(self) -> float:
        """Examples per second of all passes, everything counted."""
        return self.texts * (len(self.seconds) - 1) / self.seconds[-1]


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Point by point over people: mean seconds, mean losses, mean number of texts."""
    return Curve(
        tuple(np.mean([each.seconds for each in curves], axis=0).tolist()),
        tuple(np.mean([each.losses for each in curves], axis=0).tolist()),
        float(np.mean([each.texts for each in curves])),
    )


def seconds_to(curve: Curve, loss: float) -> float | None:
    """When the curve first lies at or below ``loss``, on the straight line between two passes; None: never."""
    for done in range(1, len(curve.losses)):
        before, after = curve.losses[done - 1], curve.losses[done]
        if after <= loss:
            part = (before - loss) / (before - after) if before > loss else 0.0
            return curve.seconds[done - 1] + part * (curve.seconds[done] - curve.seconds[done - 1])
    return None
