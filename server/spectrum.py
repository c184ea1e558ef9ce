"""Which directions of a noisy sum are structure, and which are noise: how many bases there are, and how sure each is.

A released mean is ``S + N`` with N (m x d) independent Gaussian noise of known deviation sigma. Symbols: ``m`` rows,
``d`` columns, ``theta`` a singular value of S, ``y`` the one that is observed in its place.

- Noise alone has singular values up to ``sigma (sqrt(m) + sqrt(d))`` (Marchenko and Pastur 1967); the largest
  fluctuates about it as Johnstone (2001, theorem 1.1) says. `largest_noise_value` is its 99 % quantile.
- A direction with ``theta <= sigma (m d)^(1/4)`` leaves no trace in the spectrum (the edge of Baik, Ben Arous and Peche
  2005). Above it (Benaych-Georges and Nadakuditi 2012, section 3.1, for rectangular matrices):

      y^2 = (theta^2 + sigma^2 d) (theta^2 + sigma^2 m) / theta^2
      cos^2(found row, true row) = 1 - sigma^2 d (theta^2 + sigma^2 m) / (theta^2 (theta^2 + sigma^2 d))

The same edge answers another question: n people whose residuals are isotropic and have nothing in common (deviation tau
in each of d numbers) still have a largest direction, with a mean square of up to ``largest_noise_value(tau, n, d)^2 /
n``. What does not stand above that is chance among these people, and no basis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.clipping import JointLayout
from protocol.errors import PenchantError

# 99 % quantile of the Tracy-Widom law for real matrices (Johnstone 2001, table 1).
TRACY_WIDOM_99 = 2.0234


def largest_noise_value(deviation: float, rows: int, columns: int) -> float:
    """What the largest singular value of pure noise (rows x columns) exceeds once in a hundred times.

    Johnstone's law is one of many rows and columns; it errs on the careful side for few.
    """
    few, many = sorted((rows, columns))
    root = math.sqrt(max(many - 1, 1)) + math.sqrt(few)
    spread = root * (1.0 / math.sqrt(max(many - 1, 1)) + 1.0 / math.sqrt(few)) ** (1.0 / 3.0)
    return deviation * math.sqrt(root**2 + TRACY_WIDOM_99 * spread)


def smallest_signal(deviation: float, rows: int, columns: int) -> float:
    """The singular value that a direction needs to be seen at all: where ``y`` reaches `largest_noise_value`."""
    return float(signal_values([largest_noise_value(deviation, rows, columns)], deviation, rows, columns)[0])


def signal_values(observed: Sequence[float], deviation: float, rows: int, columns: int) -> NDArray[np.float64]:
    """``theta`` for each observed ``y``: what is left of a singular value without the noise; 0 below the edge."""
    squares = np.square(np.asarray(observed, dtype=np.float64))
    middle = squares - deviation**2 * (rows + columns)
    root = np.sqrt(np.maximum(middle**2 - 4.0 * deviation**4 * rows * columns, 0.0))
    theta: NDArray[np.float64] = np.sqrt(np.maximum(0.5 * (middle + root), 0.0))
    theta[middle < 2.0 * deviation**2 * math.sqrt(rows * columns)] = 0.0
    return theta


def reliability(observed: Sequence[float], deviation: float, rows: int, columns: int) -> NDArray[np.float64]:
    """cos^2 between each found row and the true one, in [0, 1]; 0 for what noise alone could have been."""
    theta = signal_values(observed, deviation, rows, columns)
    seen = np.asarray(observed, dtype=np.float64) > largest_noise_value(deviation, rows, columns)
    signal, long, short = theta**2, deviation**2 * columns, deviation**2 * rows
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = 1.0 - long * (signal + short) / (signal * (signal + long))
    kept: NDArray[np.float64] = np.where(seen & (signal > 0.0), np.clip(cosine, 0.0, 1.0), 0.0)
    return kept


@dataclass(frozen=True)
class BasesForecast:
    """What a fleet can tell from its noise, before anything is spent.

    ``smallest_share``: the share of the squared clip norm that a direction must hold, as the mean over people of
    ``(v . delta)^2 / C^2``, to stand above the noise; above 1 nothing ever does. ``count``: how many equally strong
    directions could be told apart if they held ``captured`` of everybody's energy between them.
    """

    smallest_share: float
    count: int


def forecast_bases(
    people: int, noise_multiplier: float, dimension: int, rows: int, sums: int = 1, captured: float = 1.0
) -> BasesForecast:
    """What ``sums`` sums on ``rows`` rows of ``dimension`` numbers show of ``people`` people.

    In a noisy sum (`protocol.subspace_sketch`) a direction of share s has the singular value ``C s / sqrt(captured)``,
    and the noise in the mean has deviation ``z J / n`` with the joint bound J (`protocol.clipping`). The clip norm
    cancels: shares of C^2 only shrink as C grows beyond people's norms, so the best clip is small, down to where nearly
    everybody is clipped and a share says how much of a residual's direction lies there.
    """
    if min(people, dimension, rows, sums) < 1 or noise_multiplier < 0.0 or not 0.0 < captured <= 1.0:
        raise PenchantError("a forecast needs people, numbers, rows and sums, and a captured share in (0, 1]")
    deviation = noise_multiplier * JointLayout(rows * dimension).joint_norm(1.0) / people / math.sqrt(sums)
    share = smallest_signal(deviation, rows * sums, dimension) * math.sqrt(captured)
    most = min(rows, dimension)
    return BasesForecast(share, most if share == 0.0 else min(most, int(captured / share)))
