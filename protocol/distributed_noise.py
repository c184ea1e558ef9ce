"""One interface for noise that many people add together, each a small integer share of it.

Shares are sized for the smallest cohort that may survive: with more survivors there is more noise, never less.

    z = noise_multiplier, Delta = L2 sensitivity in integers, m = minimum_survivors
    variance of one share = (z Delta)^2 / m          variance of the sum over n >= m people = (z Delta)^2 n / m

`protocol.skellam` and `protocol.discrete_gaussian` are the two kinds; what each is worth in privacy is
`protocol.gaussian_domination`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ProtocolError

Mechanism = Literal["skellam", "discrete_gaussian"]


@dataclass(frozen=True)
class DistributedNoise(ABC):
    """z, Delta (integers, after rounding) and m of the module docstring. z = 0 means no noise at all.

    A share is known to its owner: against k colluding people the noise is that of n - k.
    """

    noise_multiplier: float
    l2_sensitivity: float
    minimum_survivors: int

    mechanism: ClassVar[Mechanism]

    def __post_init__(self) -> None:
        if not (self.noise_multiplier >= 0.0 and self.l2_sensitivity > 0.0 and self.minimum_survivors >= 1):
            raise ProtocolError("noise needs a multiplier >= 0, a positive sensitivity and at least one survivor")

    @property
    def share_variance(self) -> float:
        """Variance of one person's share per coordinate, integers^2."""
        return (self.noise_multiplier * self.l2_sensitivity) ** 2 / self.minimum_survivors

    def total_variance(self, survivors: int) -> float:
        """Variance per coordinate of the sum of `survivors` shares. Raises ProtocolError below the minimum."""
        if survivors < self.minimum_survivors:
            raise ProtocolError(f"{survivors} survivors, the noise needs {self.minimum_survivors}")
        return self.share_variance * survivors

    def effective_noise_multiplier(self, survivors: int) -> float:
        """Standard deviation of the summed noise over Delta: z * sqrt(n / m)."""
        return math.sqrt(self.total_variance(survivors)) / self.l2_sensitivity

    def sample_share(self, dimension: int, rng: np.random.Generator | None = None) -> NDArray[np.int64]:
        """One person's noise, shape (dimension,). `rng` is for tests; by default the system's own randomness."""
        if self.noise_multiplier == 0.0:
            return np.zeros(dimension, dtype=np.int64)
        return self._sample(dimension, rng)

    @abstractmethod
    def _sample(self, dimension: int, rng: np.random.Generator | None) -> NDArray[np.int64]:
        """A share of variance `share_variance` > 0."""
