"""Correlated noise for fleets that cannot claim sampling: banded matrix factorisation, without a trusted server.

What a fleet uses are running sums A X (A lower triangular ones, X the rounds' sums). Factor A = B C with C lower
triangular Toeplitz of b bands c_0 = 1 >= c_1 ... c_(b-1), release C X + Z with Z independent noise and let anybody
compute B (C X + Z) = A X + B Z (Denisov et al. 2022; banded: Choquette-Choo et al. 2023). At equal privacy the error
of the running sums is 2 to 4 times smaller than with independent noise.

    age of a person in round t = t - (round in which the participation started), 0 ... b - 1
    released in round t          Y_t = sum over ages i of c_i (sum of the vectors x started in round t - i) + Z_t
    decoded, public              x^_t = Y_t - sum_(i>=1) c_i x^_(t-i)  =  X_t + (C^-1 Z)_t
    sensitivity                  sqrt(k) |c|_2 C for k participations whose starts lie >= b rounds apart

**Who holds the noise.** The usual form draws Z on the server, which then sees sums without noise: central privacy
behind secure aggregation, and it would have to be trusted. Devices cannot add shares of the correlated noise C^-1 Z
instead: each would need its own noise of earlier rounds again, one absence leaves noise that cancels nothing, and C^-1
is not integer. Correlating the noise of released sums X + Z afterwards is no factorisation at all: they have the plain
noise already. So here the *contributions* are correlated: a person trains once and in the next b - 1 rounds sends the
same vector again, times c_i. Noise is then fresh in every round, in integer shares, as in any other round; every upload
is an ordinary release of smaller sensitivity (c_i C), and the server never sees a sum with less noise. The price: a
person uploads in b rounds instead of one, secure sums are b times larger (each share b times smaller), the update waits
on the device meanwhile, and whoever leaves early is counted in part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import PenchantError, ProtocolError

MAXIMUM_BANDS = 64


@dataclass(frozen=True)
class BandedStrategy:
    """c of the module docstring. (1.0,) is independent noise."""

    coefficients: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        values = self.coefficients
        if not 1 <= len(values) <= MAXIMUM_BANDS or values[0] != 1.0 or not all(0.0 < c <= 1.0 for c in values):
            raise ProtocolError(f"a strategy is 1 to {MAXIMUM_BANDS} coefficients in (0, 1], the first of them 1")

    @property
    def bands(self) -> int:
        """b: in how many rounds one participation uploads."""
        return len(self.coefficients)

    def sensitivity(self, rounds: int, spacing: int) -> float:
        """L2 sensitivity of all releases of `rounds` rounds to one person, in clip norms.

        The worst person starts in rounds 0, S, 2 S ...: starting anywhere later moves part of a participation past
        the end. Raises ProtocolError if participations could overlap (S < b): then this is not a bound.
        """
        if spacing < self.bands:
            raise ProtocolError(f"{self.bands} bands need starts at least {self.bands} rounds apart, not {spacing}")
        ages = (round % spacing for round in range(rounds))
        return math.sqrt(math.fsum(self.coefficients[age] ** 2 for age in ages if age < self.bands))

    def prefix_error(self, rounds: int) -> float:
        """Root mean square error of the running sums over `rounds` rounds for Z of variance 1."""
        running = np.cumsum(self.inverse(rounds))
        return math.sqrt(float(np.arange(rounds, 0, -1) @ np.square(running)) / rounds)

    def inverse(self, rounds: int) -> NDArray[np.float64]:
        """First column of C^-1, shape (rounds,): round t decodes to X_t + sum_i inverse_i Z_(t-i)."""
        return _inverse(np.array(self.coefficients), rounds)

    def gain(self, rounds: int, spacing: int) -> float:
        """How many times larger the error of independent noise is at the same privacy and the same spacing."""
        independent = BandedStrategy()
        ours, theirs = (s.prefix_error(rounds) * s.sensitivity(rounds, spacing) for s in (self, independent))
        return theirs / ours

    def decode(self, sums: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        """Y_0, Y_1 ... to x^_0, x^_1 ... (equal shapes): post-processing that anybody can do."""
        decoded: list[NDArray[np.float64]] = []
        for total in sums:
            earlier = zip(self.coefficients[1:], reversed(decoded), strict=False)
            decoded.append(total - sum((c * vector for c, vector in earlier), np.zeros_like(total)))
        return decoded


@lru_cache(maxsize=64)
def optimal_strategy(bands: int, rounds: int) -> BandedStrategy:
    """The coefficients of `bands` bands with the smallest running-sum error over `rounds` rounds at equal privacy.

    Minimises |A C^-1|_F |c|_2 by L-BFGS from the coefficients of sqrt(A), (1 - x)^(-1/2). Milliseconds. Raises
    PenchantError without scipy.
    """
    bands = min(bands, rounds, MAXIMUM_BANDS)
    if bands <= 1:
        return BandedStrategy()
    try:
        optimize: Any = import_module("scipy.optimize")
    except ImportError:
        raise PenchantError("correlated noise needs scipy; install it with: pip install 'penchant[fleet]'") from None
    weights = np.arange(rounds, 0, -1.0)

    def objective(tail: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """log(|A C^-1|_F^2 |c|^2) and its gradient: with e = A C^-1, r = C^-1, d e / d c_i = -shift_i(e * r)."""
        c = np.concatenate([[1.0], tail])
        inverse = _inverse(c, rounds)
        running = np.cumsum(inverse)
        product = np.convolve(running, inverse)[:rounds]
        weighted = weights * running
        slope = np.array([-2 * weighted[i:] @ product[: rounds - i] for i in range(1, bands)])
        error, square = float(weighted @ running), float(c @ c)
        return math.log(error * square), slope / error + 2 * tail / square

    start = np.cumprod([(2 * i - 1) / (2 * i) for i in range(1, bands)])
    found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(1e-6, 1.0)] * (bands - 1))
    return BandedStrategy((1.0, *(float(value) for value in found.x)))


def _inverse(coefficients: NDArray[np.float64], rounds: int) -> NDArray[np.float64]:
    """First column of C^-1 (lower triangular Toeplitz), shape (rounds,)."""
    inverse = np.zeros(rounds)
    inverse[0] = 1 / coefficients[0]
    for t in range(1, rounds):
        reach = min(t, len(coefficients) - 1)
        inverse[t] = -(coefficients[1 : reach + 1] @ inverse[t - reach : t][::-1]) / coefficients[0]
    return inverse
