"""What integer noise is worth in privacy: the Gaussian mechanism that is at least as revealing, exactly.

Let N be integer noise, symmetric and log-concave (Skellam, discrete Gaussian and sums of them are), and
z(j) = the normal quantile with P[G >= z(j)] = P[N >= j], G standard normal. Claim: if every step z(j + 1) - z(j) is at
most 1 / s, then for every integer vector x the pair (x + N, N) is a post-processing of the Gaussian pair with noise of
variance s^2 and the same shift, that is of (N(|x|_2 / s, 1), N(0, 1)).

Proof. One coordinate, shift k > 0. By log-concavity the likelihood ratio is monotone, so the best tests of k + N
against N are thresholds (and mixtures of two): false positives P[N >= j], power P[N >= j - k]. In normal quantiles the
two differ by z(j) - z(j - k) <= k / s, the Gaussian's difference at the same false positives: the discrete trade-off
curve lies on or above the Gaussian one at its corners, and between them since the Gaussian's is convex. A pair whose
curve lies above another's is a post-processing of it (Blackwell 1953; Dong, Roth and Su 2022, theorem 2.10).
Coordinates are independent, so the products are post-processings too, and a product of Gaussian pairs with shifts
|x_i| / s is one Gaussian pair with shift |x|_2 / s. A random x (rounding), others' contributions, more noise on top,
Poisson sampling of people and adaptive composition all keep the relation. QED

So everything known of the Gaussian mechanism holds of the discrete one at variance s^2: no dimension, no L1 norm, no
added delta. `dominating_variance` gives s^2. With variance v it is v - 1/3 for Skellam and v - 1/12 for the discrete
Gaussian, to first order. Below `_EVALUATED` every step is computed where a tail is above 1e-290 (z = 36: what lies
beyond matters only to epsilons in the hundreds, and there Skellam's steps fall and the discrete Gaussian's tend to
1 / sqrt(v)) and 1e-9 is taken off for rounding. Above, the first-order term (dz/dy of Cornish and
Fisher's expansion with the lattice correction, y = (j - 1/2) / sqrt(v): 1 + (4 - 3 y^2) / (24 v) for Skellam,
1 + 1 / (24 v) for the discrete Gaussian) is subtracted twice; that part is an expansion, checked numerically up to
v = 1e6, not proved.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from protocol.discrete_gaussian import sum_divergence
from protocol.distributed_noise import Mechanism

_EVALUATED = 1e4
_SMALLEST_TAIL = 1e-290
_ROUNDING = 1e-9
_MILLS = math.sqrt(math.pi / 2)  # largest P[G >= z] / density(z) over z >= 0
_FIRST_ORDER = {"skellam": 1 / 3, "discrete_gaussian": 1 / 12}


@lru_cache(maxsize=512)
def dominating_variance(mechanism: Mechanism, variance: float, shares: int = 1) -> float:
    """s^2 of the module docstring for noise of `variance`, the sum of `shares` equal shares; 0.0 if there is none.

    `shares` matters to the discrete Gaussian only: its sum lies within exp(+-tau) of a discrete Gaussian at every
    point, hence in every tail, which moves each z by at most tau times Mills' ratio.
    """
    if not 0.0 < variance < math.inf:
        return 0.0
    tau = 0.0 if mechanism == "skellam" else sum_divergence(variance / shares, shares)
    if math.isinf(tau):
        return 0.0
    if variance > _EVALUATED:
        step = 1 / math.sqrt(variance - 2 * _FIRST_ORDER[mechanism])
    else:
        step = float(np.max(quantile_steps(mechanism, variance))) * (1 + _ROUNDING)
    return 1 / (step + 2 * _MILLS * tau) ** 2


def quantile_steps(mechanism: Mechanism, variance: float) -> NDArray[np.float64]:
    """z(j + 1) - z(j) for j = 0, 1, 2, ... as far as the tails are above 1e-290 (symmetric for negative j)."""
    mass = np.exp(log_mass(mechanism, variance))
    mass /= mass[0] + 2 * mass[1:].sum()
    tails = np.cumsum(mass[::-1])[::-1][1:]  # P[N >= j], j = 1, 2, ...
    normal = NormalDist()
    z = np.array([-normal.inv_cdf(float(tail)) for tail in tails if tail > _SMALLEST_TAIL])
    if not len(z):
        return np.array([math.inf])  # next to no noise
    return np.concatenate([[2 * z[0]], np.diff(z)])  # P[N >= 0] = 1 - P[N >= 1], so z(0) = -z(1)


def log_mass(mechanism: Mechanism, variance: float) -> NDArray[np.float64]:
    """log P[N = k] - log P[N = 0] for k = 0 ... about 40 standard deviations.

    Skellam: P[k] is proportional to the Bessel function I_k(variance), whose ratios r_k = I_(k+1) / I_k obey
    r_(k-1) = 1 / (2 k / variance + r_k), stable downwards.
    """
    last = int(40 * math.sqrt(variance)) + 200
    if mechanism == "discrete_gaussian":
        exponents: NDArray[np.float64] = -np.square(np.arange(last + 1.0)) / (2 * variance)
        return exponents
    ratio = variance / (last + 0.5 + math.hypot(last + 0.5, variance))
    ratios = np.zeros(last)
    for k in range(last, 0, -1):
        ratio = 1 / (2 * k / variance + ratio)
        ratios[k - 1] = ratio
    return np.concatenate([[0.0], np.cumsum(np.log(ratios))])
