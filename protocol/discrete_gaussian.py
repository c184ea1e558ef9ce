"""Distributed discrete Gaussian noise: an exact sampler, each person's share, and what their sum is.

The discrete Gaussian N_Z(0, v) has probabilities proportional to exp(-k^2 / (2 v)) on the integers (Canonne, Kamath
and Steinke 2020). v is called its variance: the true one is a little smaller (equal to 1e-8 from v = 1 on). Sums of
independent ones are close to one, not equal (Kairouz, Liu and Steinke 2021, theorem 9); `sum_divergence` bounds how
close, and the accountant counts it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from protocol.distributed_noise import DistributedNoise, Mechanism

RandomBytes = Callable[[int], bytes]

_WORD_BITS = 63  # of one uniform draw
_CERTAIN = 2.0**-40  # relative; the doubles below are right to a few times 2^-50


@dataclass(frozen=True)
class DistributedDiscreteGaussian(DistributedNoise):
    """Shares N_Z(0, share_variance). Their sum is within `sum_divergence` of N_Z(0, total variance)."""

    mechanism: ClassVar[Mechanism] = "discrete_gaussian"

    def _sample(self, dimension: int, rng: np.random.Generator | None) -> NDArray[np.int64]:
        return sample_discrete_gaussian(self.share_variance, dimension, os.urandom if rng is None else rng.bytes)


def sum_divergence(share_variance: float, shares: int) -> float:
    """tau with |log(P[sum of `shares` N_Z(0, v) = k] / P[N_Z(0, shares v) = k])| <= tau for every integer k.

    Adding one N_Z(0, v) to N_Z(0, j v) gives exp(-k^2 / (2 (j + 1) v)) times the sum over a shifted lattice of a
    Gaussian of variance w = v j / (j + 1), which by Poisson summation lies within a factor 1 +- 2 q of a constant,
    q = sum_m exp(-2 pi^2 w m^2); two distributions whose ratio varies by that much differ by at most it, and later
    shares cannot widen it. Infinite where q is too large to say anything (v below 0.08).
    """
    total = 0.0
    for j in range(1, shares):
        q = math.fsum(math.exp(-2 * math.pi**2 * share_variance * j / (j + 1) * m * m) for m in range(1, 12))
        if 2 * q >= 1.0:
            return math.inf
        added = math.log1p(2 * q) - math.log1p(-2 * q)
        if j > 64:  # the rest of the terms are almost equal and grow smaller
            return total + added * (shares - j)
        total += added
    return total


def sample_discrete_gaussian(variance: float, count: int, random_bytes: RandomBytes = os.urandom) -> NDArray[np.int64]:
    """`count` independent draws of N_Z(0, variance), exactly (Canonne, Kamath and Steinke 2020, algorithm 3).

    Discrete Laplace proposals of scale t = floor(sigma) + 1 are kept with probability
    exp(-(|Y| - variance / t)^2 / (2 variance)). All of it is integer arithmetic on uniform bits, except that this last
    probability is first compared in doubles; where these cannot decide, exact arithmetic and more bits do.
    """
    scale = math.isqrt(math.floor(variance)) + 1
    kept: list[NDArray[np.int64]] = []
    missing = count
    while missing > 0:
        proposals = _discrete_laplace(scale, missing + missing // 2 + 16, random_bytes)
        exponent = (np.abs(proposals) - variance / scale) ** 2 / (2 * variance)
        words = _uniform_words(len(proposals), random_bytes)
        threshold = np.exp(-exponent) * 2.0**_WORD_BITS
        margin = threshold * _CERTAIN + 2.0 ** (_WORD_BITS - 52)  # the latter: words are rounded to doubles
        accepted = words < threshold
        for place in np.flatnonzero(np.abs(words - threshold) <= margin):
            centred = abs(int(proposals[place])) - Fraction(variance) / scale
            exact = centred * centred / (2 * Fraction(variance))
            accepted[place] = _below_exp(int(words[place]), exact, random_bytes)
        kept.append(proposals[accepted][:missing])
        missing -= len(kept[-1])
    return np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)


def _below_exp(word: int, exponent: Fraction, random_bytes: RandomBytes) -> bool:
    """Whether the uniform real whose first 63 bits are `word` (more are drawn as needed) is below exp(-exponent)."""
    bits = _WORD_BITS
    while True:
        digits = bits // 3 + 30
        context = Context(prec=digits, Emin=-(10**9), Emax=10**9)
        value = context.exp(context.divide(Decimal(-exponent.numerator), Decimal(exponent.denominator)))
        # Relative error below 10^(12 - digits): that of the quotient times the exponent, which is below 10^9 here.
        error = Fraction(1, 10 ** (digits - 12))
        low, high = Fraction(value) * (1 - error), Fraction(value) * (1 + error)
        if Fraction(word + 1, 1 << bits) <= low:
            return True
        if Fraction(word, 1 << bits) >= high:
            return False
        word, bits = (word << 64) | int.from_bytes(random_bytes(8), "big"), bits + 64


def _discrete_laplace(scale: int, count: int, random_bytes: RandomBytes) -> NDArray[np.int64]:
    """About `count` draws (those rejected are dropped) with probabilities proportional to exp(-|k| / scale)."""
    remainder = _uniform_below(np.full(count, scale, dtype=np.int64), random_bytes)
    remainder = remainder[_bernoulli_exp(remainder, scale, random_bytes)]
    whole = np.zeros(len(remainder), dtype=np.int64)
    going = np.arange(len(remainder))
    while len(going):
        going = going[_bernoulli_exp(np.ones(len(going), dtype=np.int64), 1, random_bytes)]
        whole[going] += 1
    size = remainder + scale * whole
    negative = np.frombuffer(random_bytes(len(size)), dtype=np.uint8) & 1 == 1
    usable = ~(negative & (size == 0))  # else zero would count twice
    drawn: NDArray[np.int64] = np.where(negative, -size, size)[usable]
    return drawn


def _bernoulli_exp(numerator: NDArray[np.int64], denominator: int, random_bytes: RandomBytes) -> NDArray[np.bool_]:
    """True with probability exp(-numerator / denominator), 0 <= numerator <= denominator (their algorithm 1).

    Count on while a coin of probability (numerator / denominator) / k shows heads; an odd end is True.
    """
    length = np.ones(len(numerator), dtype=np.int64)
    going = np.arange(len(numerator))
    while len(going):
        below = _uniform_below(np.full(len(going), denominator, dtype=np.int64), random_bytes) < numerator[going]
        going = going[below & (_uniform_below(length[going], random_bytes) == 0)]
        length[going] += 1
    odd: NDArray[np.bool_] = length % 2 == 1
    return odd


def _uniform_words(count: int, random_bytes: RandomBytes) -> NDArray[np.int64]:
    """Uniform integers in [0, 2^63)."""
    return (np.frombuffer(random_bytes(8 * count), dtype="<u8") >> np.uint64(1)).astype(np.int64)


def _uniform_below(bounds: NDArray[np.int64], random_bytes: RandomBytes) -> NDArray[np.int64]:
    """Uniform integers in [0, bound) for each bound, without bias: words beyond the last full multiple are redrawn."""
    limit = np.iinfo(np.int64).max - np.iinfo(np.int64).max % bounds
    words = _uniform_words(len(bounds), random_bytes)
    while len(redraw := np.flatnonzero(words >= limit)):
        words[redraw] = _uniform_words(len(redraw), random_bytes)
    drawn: NDArray[np.int64] = words % bounds
    return drawn
