"""What a fleet can afford: noise, signal-to-noise, bytes and hours from people, rounds and epsilon.

Two mechanisms are weighed, both with noise that the devices add together inside the secure sum:

    independent   every round its own noise. With a claim that each round is a Poisson sample of the population (which
                  only a simulator or a server that really draws one may make), amplified by it; without, a person is
                  in at most ceil(rounds / spacing) rounds, since devices refuse to start sooner.
    banded        correlated over `bands` rounds (`protocol.matrix_factorisation`): no claim is needed, a person
                  uploads in `bands` rounds each time, and a secure sum has `bands` times the cohort in it.

Signal-to-noise of one round, best case (all agree, all at the clip norm C), n people starting, d values:

    n C / (s sqrt(d) e),     s = standard deviation of the noise on each value of the summed updates,
                             e = error of running sums relative to independent noise of the same s (1 for independent)

s is that of the task which the fleet would run: the rounded joint sensitivity, and shares sized so that a third of the
cohort may vanish (with everybody there the noise is sqrt(n / survivors) larger than promised).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from protocol.accounting import (
    Accountant,
    PrivacyEvent,
    noise_multiplier_for,
    noise_multiplier_guess,
    squared_gaussian_mu,
)
from protocol.codec import packed_size
from protocol.errors import PenchantError, ProtocolError
from protocol.matrix_factorisation import BandedStrategy, optimal_strategy
from protocol.round_plan import RoundPlan, plan_task
from server.planning import default_minimum_survivors

Sampling = Literal["poisson", "none"]

DEFAULT_VALUES = 3584  # the default frame: 8 layers, 7 maps each, 8 x 8
DEFAULT_SECONDS_PER_ROUND = 300.0
USABLE_RATIO = 0.3
MAXIMUM_PLANNED_BANDS = 32
DROPOUT_FRACTION = 1 / 3
RING_BITS = (16, 20, 24, 28, 32)
ROUNDING_ALLOWED = 1.02  # how much longer rounding may make a vector before more bits are worth their bytes
# Bytes of the messages beside packed vectors: a sealed box and a share per neighbour with their CBOR keys, the rest of
# a device's replies together, and what it is sent per member of the roster.
_BOX, _SHARE, _REPLIES, _ROSTER_LINE = 99, 38, 900, 340


@dataclass(frozen=True)
class FleetPlan:
    """What is wanted. `delta` None: population ** -1.1. `spacing` None: population // cohort, the most there is."""

    population: int
    cohort: int
    rounds: int
    epsilon: float
    delta: float | None = None
    values: int = DEFAULT_VALUES
    sampling: Sampling = "none"
    spacing: int | None = None
    seconds_per_round: float = DEFAULT_SECONDS_PER_ROUND

    def __post_init__(self) -> None:
        if not 3 <= self.cohort <= self.population:
            raise PenchantError(f"a cohort has 3 to {self.population} people (the population), not {self.cohort}")
        if self.rounds < 1 or self.values < 1 or not self.epsilon > 0.0 or not self.seconds_per_round > 0.0:
            raise PenchantError("a plan needs at least one round and one value, an epsilon and seconds above zero")
        if not 0.0 < self.claimed_delta < 1.0:
            raise PenchantError("delta lies between 0 and 1, well below one over the number of people")
        if self.sampling not in ("poisson", "none"):
            raise PenchantError("sampling is poisson (each round really is a Poisson sample) or none")
        if self.spacing is not None and self.sampling == "poisson":
            raise PenchantError(
                "a Poisson sample may draw somebody twice in a row: give a spacing or poisson, not both"
            )
        if not 1 <= self.enforced_spacing <= self.population // self.cohort:
            raise PenchantError(
                f"with a spacing of {self.enforced_spacing} rounds {self.enforced_spacing * self.cohort} people are "
                f"needed, there are {self.population}: choose 1 to {self.population // self.cohort}"
            )

    @property
    def claimed_delta(self) -> float:
        return self.population**-1.1 if self.delta is None else self.delta

    @property
    def enforced_spacing(self) -> int:
        """Rounds between two starts of one person."""
        return self.population // self.cohort if self.spacing is None else self.spacing


@dataclass(frozen=True)
class Offer:
    """One mechanism at the wanted epsilon.

    `noise_multiplier`: z of each round's task. `epsilon`: what the ledger will show for the worst person after all
    rounds. `signal_to_noise` as in the module docstring. `bytes_up`, `bytes_down`: per person and round, estimated.
    `uploads`: of one person in all rounds, at most. `secure_sum`: people in each.
    """

    mechanism: Literal["independent", "banded"]
    bands: int
    noise_multiplier: float
    epsilon: float
    signal_to_noise: float
    ring_bits: int
    secure_sum: int
    uploads: int
    bytes_up: int
    bytes_down: int
    strategy: tuple[float, ...]


@dataclass(frozen=True)
class FleetForecast:
    """All offers, best first, and the total time of the rounds."""

    plan: FleetPlan
    offers: tuple[Offer, ...]
    hours: float
    advice: str

    @property
    def recommended(self) -> Offer:
        return self.offers[0]


def forecast(plan: FleetPlan) -> FleetForecast:
    """Weigh both mechanisms; the one with more signal-to-noise is recommended. Raises PenchantError for wrong plans."""
    offers = _offers(plan)
    offers.sort(key=lambda offer: -offer.signal_to_noise)
    return FleetForecast(plan, tuple(offers), plan.rounds * plan.seconds_per_round / 3600, _advice(plan, offers[0]))


def trade_off(
    plan: FleetPlan, cohorts: tuple[int, ...], epsilons: tuple[float, ...]
) -> dict[int, list[tuple[float, float]]]:
    """{cohort: [(epsilon, signal-to-noise of the better mechanism)]}: how the plan fares with other numbers.

    The spacing is what each cohort allows; cohorts beyond the population are left out. Points lie near `epsilons`:
    of amplified noise, epsilon is computed from a guess of the noise, which saves the search.
    """
    curves: dict[int, list[tuple[float, float]]] = {}
    for cohort in cohorts:
        if 3 <= cohort <= plan.population:
            curves[cohort] = []
            for epsilon in epsilons:
                other = replace(plan, cohort=cohort, spacing=None, epsilon=epsilon)
                if plan.sampling == "poisson":
                    chance = cohort / plan.population
                    target = epsilon
                    for _ in range(2):  # the second guess corrects for how far off the first one was
                        noise = noise_multiplier_guess(target, plan.claimed_delta, plan.rounds, chance)
                        amplified = _offer_with(other, BandedStrategy(), noise, amplified=True)
                        target *= epsilon / amplified.epsilon
                    other = replace(other, epsilon=amplified.epsilon)
                    offers = [amplified, *_offers_without_claim(other)[1:]]
                else:
                    offers = _offers_without_claim(other)
                best = max(offers, key=lambda offer: offer.signal_to_noise)
                curves[cohort].append((best.epsilon, best.signal_to_noise))
    return curves


def _offers(plan: FleetPlan) -> list[Offer]:
    if plan.sampling == "none":
        return _offers_without_claim(plan)
    noise = noise_multiplier_for(plan.epsilon, plan.claimed_delta, plan.rounds, plan.cohort / plan.population)
    while True:
        offer = _offer_with(plan, BandedStrategy(), noise, amplified=True)
        if offer.epsilon <= plan.epsilon:
            return [offer, *_offers_without_claim(plan)[1:]]
        noise *= 1.0005  # integers cost a little more than continuous noise


def _offers_without_claim(plan: FleetPlan) -> list[Offer]:
    """Independent noise first, then, if the spacing leaves room for it, banded noise."""
    bands = min(plan.enforced_spacing, MAXIMUM_PLANNED_BANDS, plan.rounds)
    offers = []
    for strategy in [BandedStrategy()] + ([optimal_strategy(bands, plan.rounds)] if bands > 1 else []):
        alone = noise_multiplier_for(plan.epsilon, plan.claimed_delta, 1)
        noise = alone * strategy.sensitivity(plan.rounds, plan.enforced_spacing)
        while (offer := _offer_with(plan, strategy, noise, amplified=False)).epsilon > plan.epsilon:
            # Integers cost a little more than the continuous noise that was asked for: by as much, and a hair on top.
            round_plan = _round_plan(plan, strategy, offer.secure_sum, noise)
            noise *= 1.0002 * math.sqrt(max(1.0, squared_gaussian_mu(_events(plan, round_plan, False)) * alone**2))
        offers.append(offer)
    return offers


def _offer_with(plan: FleetPlan, strategy: BandedStrategy, noise_multiplier: float, *, amplified: bool) -> Offer:
    """What this noise gives and costs."""
    people = plan.cohort * strategy.bands
    round_plan = _round_plan(plan, strategy, people, noise_multiplier)
    task = round_plan.task
    deviation = math.sqrt(round_plan.noise.total_variance(people)) / task.scale
    relative = strategy.prefix_error(plan.rounds) / BandedStrategy().prefix_error(plan.rounds)
    vector = packed_size(round_plan.layout.dimension, task.ring_bits)
    return Offer(
        mechanism="banded" if strategy.bands > 1 else "independent",
        bands=strategy.bands,
        noise_multiplier=noise_multiplier,
        epsilon=Accountant(_events(plan, round_plan, amplified)).epsilon(plan.claimed_delta),
        signal_to_noise=plan.cohort / (deviation * math.sqrt(plan.values) * relative),
        ring_bits=task.ring_bits,
        secure_sum=people,
        uploads=plan.rounds if amplified else min(plan.rounds, _participations(plan) * strategy.bands),
        bytes_up=vector + task.graph_degree * (_BOX + _SHARE) + _REPLIES,
        bytes_down=people * _ROSTER_LINE + task.graph_degree * _BOX,
        strategy=strategy.coefficients,
    )


def _participations(plan: FleetPlan) -> int:
    return -(-plan.rounds // plan.enforced_spacing)


def _round_plan(plan: FleetPlan, strategy: BandedStrategy, people: int, noise_multiplier: float) -> RoundPlan:
    """The task that the fleet would run, in the smallest ring in which rounding does not matter."""
    problem = ""
    for ring_bits in RING_BITS:
        try:
            task = plan_task(
                run_id="plan", round=0, kind="shared", artefacts={}, base_sha256="0" * 64, dimension=plan.values,
                clip_norm=1.0, noise_multiplier=noise_multiplier, cohort_size=people,
                minimum_survivors=default_minimum_survivors(people, DROPOUT_FRACTION), delta=plan.claimed_delta,
                ring_bits=ring_bits, dropout_fraction=DROPOUT_FRACTION, spacing=plan.enforced_spacing,
                strategy=strategy.coefficients, rotation_seed=0, graph_seed=0,
            )  # fmt: skip
        except ProtocolError as error:
            problem = str(error)
            continue
        round_plan = RoundPlan.of(task)
        rounded = math.hypot(
            *(round_plan.privacy_event(age=age).l2_sensitivity or 0.0 for age in range(strategy.bands))
        )
        exact = round_plan.codec.scale * round_plan.codec.clip_norm * math.hypot(*strategy.coefficients)
        if rounded <= ROUNDING_ALLOWED * exact or ring_bits == RING_BITS[-1]:
            return round_plan
    raise PenchantError(f"no round can be planned for {people} people: {problem}")


def _events(plan: FleetPlan, round_plan: RoundPlan, amplified: bool) -> list[PrivacyEvent]:
    """What the ledger holds of the worst person after all rounds."""
    if amplified:
        return [replace(round_plan.privacy_event(plan.cohort / plan.population), count=plan.rounds)]
    ages = [number % plan.enforced_spacing for number in range(plan.rounds)]
    bands = range(round_plan.strategy.bands)
    return [replace(round_plan.privacy_event(age=age), count=ages.count(age)) for age in bands]


def _advice(plan: FleetPlan, offer: Offer) -> str:
    """What to change if the ratio is too small, each of the three alone; "" if it is usable."""
    lacking = USABLE_RATIO / offer.signal_to_noise
    if lacking <= 1.0:
        return ""
    strategy = BandedStrategy(offer.strategy)
    quieter = _round_plan(plan, strategy, offer.secure_sum, offer.noise_multiplier / lacking)
    amplified = plan.sampling == "poisson" and strategy.bands == 1
    enough = Accountant(_events(plan, quieter, amplified)).epsilon(plan.claimed_delta)
    return (
        f"signal-to-noise is {offer.signal_to_noise:.2f}, below {USABLE_RATIO}: a round teaches next to nothing. Any "
        f"one of these is enough: cohorts of {math.ceil(plan.cohort * lacking)} people (and as many times more in "
        f"all, at the same delta), {max(1, math.floor(plan.values / lacking**2))} numbers instead of {plan.values}, or "
        f"epsilon {enough:.2g}"
    )
