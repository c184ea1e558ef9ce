"""Distributed Skellam noise: each person adds a small share, the shares sum to the noise of the whole round.

A Skellam variable is the difference of two Poisson variables; sums of independent ones are Skellam again, so
the sum over survivors has exactly the distribution that is accounted for (Agarwal, Kairouz and Liu 2021).
"""

import math
import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from protocol.distributed_noise import DistributedNoise, Mechanism
from protocol.errors import ProtocolError


@dataclass(frozen=True)
class DistributedSkellam(DistributedNoise):
    """Shares whose sum is Skellam noise of exactly the promised variance."""

    mechanism: ClassVar[Mechanism] = "skellam"

    def _sample(self, dimension: int, rng: np.random.Generator | None) -> NDArray[np.int64]:
        """Difference of two Poisson draws. NumPy's sampler works in doubles: exact up to double rounding, as is
        usual.
        """
        generator = rng if rng is not None else np.random.default_rng(int.from_bytes(os.urandom(32), "big"))
        rate = self.share_variance / 2
        return generator.poisson(rate, dimension).astype(np.int64) - generator.poisson(rate, dimension)


def renyi_divergence(order: int, variance: float, l2_sensitivity: float, l1_sensitivity: float) -> float:
    """Renyi DP of integer order >= 2 of the Skellam mechanism (Agarwal, Kairouz and Liu 2021, corollary 3.6).

    alpha Delta2^2 / (2 mu) + min( ((2 alpha - 1) Delta2^2 + 6 Delta1) / (4 mu^2),  3 Delta1 / (2 mu) )

    with mu the total variance and Delta1, Delta2 the sensitivities, all in integers. The first term is the
    Gaussian's.
    """
    if order < 2:
        raise ProtocolError("the Renyi order is an integer >= 2")
    if variance <= 0.0:
        return math.inf
    squared = l2_sensitivity**2
    excess = min(
        ((2 * order - 1) * squared + 6 * l1_sensitivity) / (4 * variance**2),
        3 * l1_sensitivity / (2 * variance),
    )
    return order * squared / (2 * variance) + excess
