"""Distributed noise: each person adds a small Skellam share, the shares sum to the noise of the whole round.

A Skellam variable is the difference of two Poisson variables; sums of independent ones are Skellam again, so
the sum over survivors has exactly the distribution that is accounted for (Agarwal, Kairouz and Liu 2021).
Shares are sized for the smallest cohort that may survive: with more survivors there is more noise, never
less.

    z = noise_multiplier, Delta = L2 sensitivity in integers, m = minimum_survivors
    variance of one share = (z Delta)^2 / m          variance of the sum over n >= m people = (z Delta)^2 n /
    m
"""

import math
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ProtocolError


@dataclass(frozen=True)
class DistributedSkellam:
    """z, Delta (integers, after rounding) and m of the module docstring. z = 0 means no noise at all.

    A share is known to its owner: against k colluding people the noise is that of n - k.
    """

    noise_multiplier: float
    l2_sensitivity: float
    minimum_survivors: int

    def __post_init__(self) -> None:
        if not (self.noise_multiplier >= 0.0 and self.l2_sensitivity > 0.0 and self.minimum_survivors >= 1):
            raise ProtocolError("noise needs a multiplier >= 0, a positive sensitivity and at least one survivor")

    @property
    def share_variance(self) -> float:
        """Variance of one person's share per coordinate, integers^2."""
        return (self.noise_multiplier * self.l2_sensitivity) ** 2 / self.minimum_survivors

    def total_variance(self, survivors: int) -> float:
        """Variance per coordinate of the sum of `survivors` shares. Raises ProtocolError below the
        minimum."""
        if survivors < self.minimum_survivors:
            raise ProtocolError(f"{survivors} survivors, the noise needs {self.minimum_survivors}")
        return self.share_variance * survivors

    def effective_noise_multiplier(self, survivors: int) -> float:
        """Standard deviation of the summed noise over Delta: z * sqrt(n / m)."""
        return math.sqrt(self.total_variance(survivors)) / self.l2_sensitivity

    def sample_share(self, dimension: int, rng: np.random.Generator | None = None) -> NDArray[np.int64]:
        """One person's noise, shape (dimension,). `rng` is for tests; by default 256 fresh bits from the
        system.

        NumPy's Poisson sampler works in doubles: its distribution is exact up to double rounding, as is
        usual.
        """
        if self.noise_multiplier == 0.0:
            return np.zeros(dimension, dtype=np.int64)
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
