"""Privacy curves computed from probabilities alone, for tests: no theorem, no library, no Gaussian.

All are lower bounds of the truth (what rounding there is makes losses smaller), so no honest epsilon may be below.
"""

import math

import numpy as np

from protocol.gaussian_domination import log_mass


def masses(mechanism, variance):
    """P[N = k] for k = -K ... K."""
    half = np.exp(log_mass(mechanism, variance))
    mass = np.concatenate([half[:0:-1], half])
    return mass / mass.sum()


def loss_pairs(mass, shift):
    """(probability under the shifted distribution, loss log p(k - shift) / p(k)) where both are there."""
    middle = len(mass) // 2
    reach = min(middle - shift, int(np.flatnonzero(mass[middle:] > 1e-250)[-1]) - shift)
    places = np.arange(-reach, reach + 1) + middle
    return mass[places - shift], np.log(mass[places - shift] / mass[places])


def delta_of(probabilities, losses, epsilon):
    """Hockey-stick divergence: the exact delta(epsilon) of one release."""
    return float(np.sum(probabilities * np.maximum(0.0, -np.expm1(epsilon - losses))))


def epsilon_of(probabilities, losses, delta):
    """The epsilon at which `delta_of` is delta, by bisection."""
    low, high = 0.0, 400.0
    if delta_of(probabilities, losses, low) <= delta:
        return 0.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(probabilities, losses, middle) > delta else (low, middle)
    return low


def deviation(probabilities, losses):
    """Standard deviation of one release's loss."""
    return math.sqrt(
        float(np.average((losses - np.average(losses, weights=probabilities)) ** 2, weights=probabilities))
    )


def composed(probabilities, losses, releases, cell):
    """Losses of `releases` independent releases, by the Fourier transform on a grid, each loss rounded down to it."""
    usable = probabilities > 1e-18
    cells = np.floor(losses[usable] / cell).astype(np.int64)
    lowest = int(cells.min())
    width = int(cells.max()) - lowest + 1
    spread = math.sqrt(releases) * 10 * deviation(probabilities, losses) / cell
    size = 1 << int(max(width * 2, 4 * spread, 1024)).bit_length()
    grid = np.bincount(cells - lowest, weights=probabilities[usable], minlength=size)
    mass = np.fft.irfft(np.fft.rfft(grid) ** releases, size)
    # Indices wrap around: unfold them around the mean, where all of the mass is.
    mean = releases * float(np.average(cells - lowest, weights=probabilities[usable]))
    index = np.arange(size)
    index = index + size * np.round((mean - index) / size).astype(np.int64)
    mass[mass < 1e-15] = 0.0  # the transform's own noise
    return mass, (index + releases * lowest) * cell
