"""How much privacy the releases of a fleet spend together, and what an attack can at best achieve against
that.

Unit: one person (everything a person ever contributes). Neighbours: zero-out, i.e. one person's joint vector
replaced by the zero vector. `sampling_probability` is 1.0 unless the cohort of a round really is a Poisson
sample: devices that check in when they like are not one, and no amplification may be claimed for them. Every
release counts: updates, clip bits and metrics travel in one noised vector and are one event.

Two values, both upper bounds:
- `Accountant.epsilon`: the reported one. Every release of integer noise is a post-processing of the Gaussian
  mechanism at `PrivacyEvent.gaussian_noise_multiplier` (`protocol.gaussian_domination`), so its curve bounds theirs:
  exact (Balle and Wang 2018) where nothing is sampled, PLD (`dp-accounting`) where it is. At 16 bits it lies within
  1e-4 of the Gaussian's own epsilon.
- `Accountant.epsilon_rdp`: from Renyi bounds alone, Skellam's by its own theorem (Agarwal, Kairouz and Liu 2021); a
  second way to a bound, 8 to 18 % larger. Sampling is ignored.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import import_module
from statistics import NormalDist
from typing import Any

from protocol.distributed_noise import Mechanism
from protocol.errors import PenchantError, ProtocolError
from protocol.gaussian_domination import dominating_variance
from protocol.skellam import renyi_divergence

_ORDERS = (*range(2, 257), *(2**power for power in range(9, 17)))


@dataclass(frozen=True)
class PrivacyEvent:
    """`count` releases of one kind. z = `noise_multiplier` (noise standard deviation over L2 sensitivity; 0 =
    none).

    `l2_sensitivity` and `l1_sensitivity` are those of the integer vectors; None means continuous Gaussian noise, else
    `mechanism` names the integer noise, the sum of `shares` equal shares.
    """

    noise_multiplier: float
    sampling_probability: float = 1.0
    count: int = 1
    l2_sensitivity: float | None = None
    l1_sensitivity: float | None = None
    mechanism: Mechanism = "skellam"
    shares: int = 1

    def __post_init__(self) -> None:
        numbers = (self.noise_multiplier, self.l2_sensitivity or 1.0, self.l1_sensitivity or 1.0)
        if not all(math.isfinite(number) and number >= 0.0 for number in numbers) or self.count < 0:
            raise ProtocolError("a privacy event has finite, non-negative numbers")
        if not 0.0 < self.sampling_probability <= 1.0:
            raise ProtocolError("sampling_probability lies in (0, 1]; 1 claims no amplification")
        if (self.l2_sensitivity is None) != (self.l1_sensitivity is None):
            raise ProtocolError("give both integer sensitivities or neither")
        if self.mechanism not in ("skellam", "discrete_gaussian") or self.shares < 1:
            raise ProtocolError("a privacy event names a known mechanism and at least one share")

    @property
    def variance(self) -> float:
        """Of the integer noise per coordinate, integers^2; 0.0 for continuous noise."""
        return (self.noise_multiplier * (self.l2_sensitivity or 0.0)) ** 2

    @property
    def gaussian_noise_multiplier(self) -> float:
        """Noise multiplier of a continuous Gaussian mechanism that reveals at least as much."""
        if not self.l2_sensitivity:
            return self.noise_multiplier
        return math.sqrt(dominating_variance(self.mechanism, self.variance, self.shares)) / self.l2_sensitivity

    def renyi(self, order: int) -> float:
        """Renyi DP of all `count` releases at an integer order, ignoring sampling (an upper bound)."""
        if not self.count:
            return 0.0
        if self.l2_sensitivity and self.l1_sensitivity and self.mechanism == "skellam":
            return self.count * renyi_divergence(order, self.variance, self.l2_sensitivity, self.l1_sensitivity)
        noise_multiplier = self.gaussian_noise_multiplier
        return self.count * order / (2 * noise_multiplier**2) if noise_multiplier else math.inf


class Accountant:
    """The composition of all events added so far; a ledger of one population, not of one run."""

    def __init__(self, events: Iterable[PrivacyEvent] = ()) -> None:
        self._events = list(events)

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """All events in the order in which they were added."""
        return tuple(self._events)

    def add(self, event: PrivacyEvent) -> None:
        """Add before the release happens."""
        self._events.append(event)

    def with_event(self, event: PrivacyEvent) -> "Accountant":
        """A copy that has spent `event` too: ask it what a release would lead to."""
        return Accountant((*self._events, event))

    def epsilon(self, delta: float) -> float:
        """The reported epsilon at `delta`; 0.0 for nothing, infinity if something was released without noise.

        Raises PenchantError if sampled events are present and `dp-accounting` is not installed.
        """
        _check_delta(delta)
        active = [event for event in self._events if event.count]
        if not active:
            return 0.0
        if any(event.gaussian_noise_multiplier == 0.0 for event in active):
            return math.inf
        sampled = [event for event in active if event.sampling_probability < 1.0]
        squared = squared_gaussian_mu(event for event in active if event.sampling_probability == 1.0)
        return _epsilon_pld(squared, sampled, delta) if sampled else gaussian_epsilon(math.sqrt(squared), delta)

    def epsilon_rdp(self, delta: float) -> float:
        """Upper bound on epsilon from Renyi bounds alone (Canonne, Kamath and Steinke 2020, proposition 12; best
        integer order); sampling is ignored.
        """
        _check_delta(delta)
        if not any(event.count for event in self._events):
            return 0.0
        best = math.inf
        for order in _ORDERS:
            divergence = sum(event.renyi(order) for event in self._events)
            best = min(best, divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1))
        return max(0.0, best)

    def to_json(self) -> str:
        """All events; `from_json` restores them exactly."""
        return json.dumps({"version": 1, "events": [asdict(event) for event in self._events]})

    @staticmethod
    def from_json(text: str) -> "Accountant":
        """Raises ProtocolError if the text is not what `to_json` wrote."""
        try:
            data = json.loads(text)
            if data["version"] != 1:
                raise ProtocolError("the ledger was written by a newer version")
            return Accountant(PrivacyEvent(**event) for event in data["events"])
        except (ValueError, TypeError, KeyError):
            raise ProtocolError("the ledger is damaged: restore it from a copy, spend cannot be guessed") from None


def noise_multiplier_for(epsilon: float, delta: float, rounds: int, sampling_probability: float = 1.0) -> float:
    """The smallest noise multiplier (to 0.1 %, rounded up) with which `rounds` Gaussian releases spend <=
    epsilon."""
    _check_delta(delta)
    if not epsilon > 0.0 or rounds < 1:
        raise ProtocolError("need a positive epsilon and at least one round")

    def spent(noise_multiplier: float) -> float:
        return Accountant([PrivacyEvent(noise_multiplier, sampling_probability, rounds)]).epsilon(delta)

    if sampling_probability == 1.0:
        high = math.sqrt(rounds) / gaussian_mu(epsilon, delta)
        low = high / 2
    else:
        low = high = noise_multiplier_guess(epsilon, delta, rounds, sampling_probability)
        while spent(high) > epsilon:
            low, high = high, high * 1.1
        while low == high or spent(low) <= epsilon:
            low, high = low / 1.1, low
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spent(middle) <= epsilon else (middle, high)
    return high


def noise_multiplier_guess(epsilon: float, delta: float, rounds: int, sampling_probability: float) -> float:
    """About the noise multiplier that `noise_multiplier_for` finds, at once and without a guarantee: the central limit
    theorem of Gaussian DP (Dong, Roth and Su 2022, corollary 5.4), too low by up to a third at small noise.
    """
    mu = gaussian_mu(epsilon, delta)
    return 1 / math.sqrt(math.log1p(mu**2 / (sampling_probability**2 * rounds)))


def snr_bound(people: int, noise_multiplier: float, dimension: int) -> float:
    """Best possible ratio of signal to noise norm in one round's mean: n / (z sqrt(d)); infinite without
    noise.

    All people agree and all are at the clip norm. Below about 0.3 a round teaches next to nothing.
    """
    if noise_multiplier == 0.0:
        return math.inf
    return people / (noise_multiplier * math.sqrt(dimension))


def squared_gaussian_mu(events: Iterable[PrivacyEvent]) -> float:
    """mu^2 of the Gaussian mechanism that bounds all these events together if nothing is sampled: it is additive."""
    return math.fsum(
        event.count / noise_multiplier**2 if (noise_multiplier := event.gaussian_noise_multiplier) else math.inf
        for event in events
        if event.count
    )


# ----- the Gaussian trade-off curve -----


def gaussian_delta(mu: float, epsilon: float) -> float:
    """delta(epsilon) of a mu-GDP mechanism (Balle and Wang 2018, theorem 8; mu = sensitivity / standard
    deviation)."""
    if mu == 0.0:
        return 0.0
    first = _log_normal_cdf(mu / 2 - epsilon / mu)
    second = epsilon + _log_normal_cdf(-mu / 2 - epsilon / mu)
    return math.exp(first) * -math.expm1(min(0.0, second - first))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon with gaussian_delta(mu, epsilon) <= delta, to 1e-9, from above."""
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(mu, high) > delta:
        low, high = high, 2 * high
    while high - low > 1e-9 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (low, middle) if gaussian_delta(mu, middle) <= delta else (middle, high)
    return high


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The mu whose Gaussian trade-off curve touches (epsilon, delta), to 1e-9, from below."""
    low, high = 0.0, 1.0
    while gaussian_delta(high, epsilon) <= delta:
        low, high = high, 2 * high
    while high - low > 1e-9 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, epsilon) <= delta else (low, middle)
    return low


def audit_ceiling(epsilon: float, delta: float) -> tuple[float, float]:
    """(largest AUC, largest true positive rate at 1 % false positives) of any attack on one person's
    membership.

    Of the Gaussian mechanism with this (epsilon, delta). A measured value above is a bug in the mechanism.
    """
    if math.isinf(epsilon):
        return 1.0, 1.0
    normal, mu = NormalDist(), gaussian_mu(epsilon, delta)
    return normal.cdf(mu / math.sqrt(2)), normal.cdf(normal.inv_cdf(0.01) + mu)


def _log_normal_cdf(x: float) -> float:
    if x > -30.0:
        return math.log(0.5 * math.erfc(-x / math.sqrt(2)))
    # Mills' ratio, two terms: relative error below 4e-6 here.
    return -x * x / 2 - math.log(-x * math.sqrt(2 * math.pi)) + math.log1p(-1 / x**2 + 3 / x**4)


def _check_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise ProtocolError("delta lies between 0 and 1, well below one over the number of people")


def _epsilon_pld(squared_inverse_noise: float, sampled: list[PrivacyEvent], delta: float) -> float:
    """PLD of one Gaussian event (all unsampled ones together) and the sampled events."""
    try:
        library: Any = import_module("dp_accounting")
        pld: Any = import_module("dp_accounting.pld")
    except ImportError:
        raise PenchantError(
            "epsilon of sampled rounds needs dp-accounting; install it with: pip install 'penchant[fleet]'"
        ) from None
    accountant = pld.PLDAccountant(library.NeighboringRelation.REPLACE_SPECIAL)
    if squared_inverse_noise > 0.0:
        accountant.compose(library.GaussianDpEvent(1 / math.sqrt(squared_inverse_noise)))
    for event in sampled:
        inner = library.GaussianDpEvent(event.gaussian_noise_multiplier)
        accountant.compose(library.PoissonSampledDpEvent(event.sampling_probability, inner), event.count)
    return float(accountant.get_epsilon(delta))
