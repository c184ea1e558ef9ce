"""What a privacy promise allows any attack at most, and what measured attacks prove about a mechanism.

From promise to ceiling. A mechanism that is (epsilon_i, delta_i)-private for every i lets no test with false positive
rate f reach a true positive rate above (Dong, Roth and Su 2022, proposition 2.4)

    T(f) = min_i min( e^eps_i f + delta_i,   1 - e^-eps_i (1 - delta_i - f),   1 ).

The area under T bounds every AUC; max_f T(f) - f bounds every advantage; and whoever must name one of N equally likely
candidates is right with probability at most T(1/N) (T is concave, and without the data everybody has 1/N).

From measurement to bound. All lower bounds hold with the stated confidence, whatever the attack:
- `epsilon_bound`: counts of true and false positives, Clopper-Pearson at both ends (Nasr et al. 2021);
- `mu_bound`: the same in the Gaussian trade-off family, to which our noise belongs (Nasr et al. 2023): tight;
- `one_run_epsilon`: m canaries, each in or out by a fair coin, all in one run; r guesses, v of them right (Steinke,
  Nasr and Jagielski 2023, theorem 5.2).
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
from scipy import stats

from protocol.accounting import PrivacyEvent, gaussian_delta, squared_gaussian_mu
from protocol.errors import PenchantError

Array = NDArray[np.float64]
GRID = 1500


@dataclass(frozen=True, eq=False)
class Ceiling:
    """(epsilon_i, delta_i), all of which hold, both ways between neighbours. None at all: nothing is promised."""

    epsilons: Array
    deltas: Array

    @staticmethod
    def of_claim(epsilon: float, delta: float) -> Ceiling:
        """The ceiling of one (epsilon, delta) alone; infinite epsilon promises nothing."""
        if not math.isfinite(epsilon):
            return Ceiling(np.zeros(0), np.zeros(0))
        return Ceiling(np.array([epsilon]), np.array([delta]))

    @staticmethod
    def of_gaussian(mu: float) -> Ceiling:
        """Of the Gaussian mechanism with sensitivity over deviation mu (its curve on a fine grid, from above)."""
        if not math.isfinite(mu):
            return Ceiling.of_claim(math.inf, 0.0)
        epsilons, deltas = _gaussian_profile(mu)
        return Ceiling(epsilons, deltas)

    @staticmethod
    def of_events(events: Sequence[PrivacyEvent]) -> Ceiling:
        """Of everything that these events released; sampled ones by PLD (dp-accounting), added or removed."""
        active = [event for event in events if event.count]
        if any(event.gaussian_noise_multiplier == 0.0 for event in active):
            return Ceiling.of_claim(math.inf, 0.0)
        if all(event.sampling_probability == 1.0 for event in active):
            return Ceiling.of_gaussian(math.sqrt(squared_gaussian_mu(active)))
        try:
            library: Any = import_module("dp_accounting")
            pld: Any = import_module("dp_accounting.pld")
        except ImportError:
            raise PenchantError(
                "the ceiling of sampled rounds needs dp-accounting: pip install 'penchant[fleet]'"
            ) from None
        accountant = pld.PLDAccountant(library.NeighboringRelation.ADD_OR_REMOVE_ONE)
        for event in active:
            inner = library.GaussianDpEvent(event.gaussian_noise_multiplier)
            accountant.compose(library.PoissonSampledDpEvent(event.sampling_probability, inner), event.count)
        epsilons = np.linspace(0.0, max(1.0, float(accountant.get_epsilon(1e-9))), 300)
        return Ceiling(epsilons, np.array([float(accountant.get_delta(epsilon)) for epsilon in epsilons]))

    def power(self, false_positive_rate: float | Array) -> Array:
        """T(f), the largest true positive rate; elementwise."""
        f = np.asarray(false_positive_rate, dtype=np.float64)
        if not len(self.epsilons):
            return np.ones_like(f)
        growth, delta = np.exp(self.epsilons), self.deltas
        above = growth * f[..., None] + delta
        below = 1.0 - (1.0 - delta - f[..., None]) / growth
        found: Array = np.minimum(1.0, np.minimum(above, below).min(axis=-1))
        return found

    @property
    def auc(self) -> float:
        """Largest area under a receiver's curve."""
        f = 0.5 - 0.5 * np.cos(np.linspace(0.0, math.pi, 4001))  # fine where T is steep
        return float(np.trapezoid(self.power(f), f))

    @property
    def advantage(self) -> float:
        """Largest difference of true and false positive rate."""
        f = 0.5 - 0.5 * np.cos(np.linspace(0.0, math.pi, 4001))
        return float((self.power(f) - f).max())

    @property
    def accuracy(self) -> float:
        """Largest probability of a right answer to a question with two equally likely answers."""
        return 0.5 + 0.5 * self.advantage

    def identification(self, candidates: int) -> float:
        """Largest probability of naming the right one of N equally likely candidates."""
        return float(self.power(1.0 / candidates))

    def exposure(self, candidates: int) -> float:
        """Largest mean of log2(N / rank) of the secret among N equally likely ones (Carlini et al. 2019), bits.

        Without the data P(rank <= k) is k / N, so with it at most T(k / N); the mean is the sum by parts.
        """
        k = np.arange(1, candidates)
        return float((np.log2((k + 1) / k) * self.power(k / candidates)).sum())


@lru_cache(maxsize=64)
def _gaussian_profile(mu: float) -> tuple[Array, Array]:
    epsilons = np.linspace(0.0, mu * mu / 2 + 7.0 * mu, GRID)
    return epsilons, np.array([gaussian_delta(mu, float(epsilon)) for epsilon in epsilons])


# ----- from counts to bounds -----


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper and Pearson 1934), by the quantiles of beta distributions."""
    tail, failures = (1.0 - confidence) / 2, trials - successes
    low = stats.beta.ppf(tail, successes, failures + 1) if successes else 0.0
    high = stats.beta.ppf(1.0 - tail, successes + 1, failures) if failures else 1.0
    return float(low), float(high)


def _rates(hits: int, members: int, alarms: int, others: int, confidence: float) -> tuple[float, float]:
    """(at least this true positive rate, at most this false positive rate), both together at ``confidence``."""
    # One end of each two-sided interval: each fails with half of what may go wrong.
    return clopper_pearson(hits, members, confidence)[0], clopper_pearson(alarms, others, confidence)[1]


def epsilon_bound(hits: int, members: int, alarms: int, others: int, delta: float, confidence: float = 0.95) -> float:
    """Surely at least this epsilon at ``delta``: of ``members`` ``hits`` were called in, of ``others`` ``alarms``."""
    true_rate, false_rate = _rates(hits, members, alarms, others, confidence)
    found = 0.0
    if true_rate > delta:
        found = max(found, math.log((true_rate - delta) / false_rate))
    if true_rate < 1.0 and 1.0 - false_rate > delta:
        found = max(found, math.log((1.0 - false_rate - delta) / (1.0 - true_rate)))
    return found


def mu_bound(hits: int, members: int, alarms: int, others: int, confidence: float = 0.95) -> float:
    """Surely at least this mu, if the mechanism's trade-off curve is a Gaussian one."""
    true_rate, false_rate = _rates(hits, members, alarms, others, confidence)
    if not true_rate > 0.0 or not false_rate < 1.0:
        return 0.0
    return max(0.0, float(stats.norm.ppf(true_rate) - stats.norm.ppf(false_rate)))


def best_threshold(inside: Array, outside: Array) -> float:
    """The score above which "in" is said: the one with the largest `mu_bound` on these scores.

    To be chosen on other scores than those that are then counted, or the bound is none.
    """
    levels = np.quantile(outside, np.concatenate([np.linspace(0.02, 0.9, 23), [0.95, 0.98, 0.99]]))
    bounds = [
        mu_bound(int((inside > level).sum()), len(inside), int((outside > level).sum()), len(outside))
        for level in levels
    ]
    return float(levels[int(np.argmax(bounds))])


def one_run_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Probability bound of at least v right guesses if the run were (epsilon, delta)-private.

    With q = e^eps / (1 + e^eps) and B ~ Binomial(r, q):  P[B >= v] + 2 m delta max_i P[v > B >= v - i] / i.
    """
    if not 0 <= right <= guesses <= canaries:
        raise PenchantError("a one-run audit has canaries >= guesses >= right guesses")
    q = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(stats.binom.sf(right - 1, guesses, q))
    below = np.cumsum(stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, q))  # P[v > B >= v - i], i = 1 ... v
    steepest = float((below / np.arange(1, right + 1)).max()) if right else 0.0
    return min(1.0, tail + 2.0 * canaries * delta * steepest)


def one_run_epsilon(canaries: int, guesses: int, right: int, delta: float, confidence: float = 0.95) -> float:
    """Surely at least this epsilon at ``delta``, from one run (to 1e-6, from below)."""
    allowed = 1.0 - confidence
    if one_run_p_value(canaries, guesses, right, 0.0, delta) >= allowed:
        return 0.0
    low, high = 0.0, 1.0
    while one_run_p_value(canaries, guesses, right, high, delta) < allowed:
        low, high = high, 2.0 * high
        if high > 64.0:
            return low
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if one_run_p_value(canaries, guesses, right, middle, delta) < allowed else (low, middle)
        )
    return low
