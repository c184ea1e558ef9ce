"""Reward bases for thousands of people in one process, and the centralised fit that they are compared with.

``train_reward_bases`` is the server's own algorithm (``server.reward_bases``) on the devices' own arithmetic
(``protocol.reward_rounds``), with everybody in every round. Clipping, rotation and stochastic rounding are the real
ones, person by person; the noise is drawn once for the sum, from the distribution that the sum of everybody's shares
has; keys and masks are left out, since they cancel exactly (a test shows that a fleet of real devices gets the same).
Of more people than a round may have, as many as may are asked in turn; the privacy stated is that of somebody asked in
every round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy import optimize

from protocol.accounting import Accountant, noise_multiplier_for
from protocol.bank import Bank
from protocol.codec import packed_size
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.feature_map import FeatureMap
from protocol.masks import reduce_to_ring
from protocol.messages import MAXIMUM_COHORT, RoundTask
from protocol.reward_model import Array, ChoiceBatch, Choices, choice_gradient, choice_nll, fit_weights_batch
from protocol.reward_rounds import RewardWorkOrder, contribution
from protocol.round_plan import RoundPlan
from server.aggregate import RoundOutcome, decode_sum
from server.algorithms import orthonormal_rows
from server.planning import task_from_plan
from server.reward_bases import RewardBases, RewardPlan

DEFAULT_PLAN = RewardPlan()
NARROW_RING = 16_384  # people whose sum still has room beside its noise in 16 bits
PEOPLE_AT_ONCE = 256  # 8 MB of moments for 64 features
WHOLE_PAGES = MAXIMUM_COHORT // PEOPLE_AT_ONCE * PEOPLE_AT_ONCE  # people asked in one round at most


class ChoiceStream(Protocol):
    """People whose choices are read or made a block at a time, the same ones whenever they are asked for."""

    @property
    def people(self) -> int:
        """How many."""

    @property
    def dimension(self) -> int:
        """k, the features of a choice."""

    def block(self, first: int, end: int) -> ChoiceBatch:
        """The people from ``first`` to before ``end``."""


@dataclass(frozen=True)
class _InMemory:
    """People who are in memory anyway, as a stream."""

    batch: ChoiceBatch

    @property
    def people(self) -> int:
        return len(self.batch.outcomes)

    @property
    def dimension(self) -> int:
        return int(self.batch.differences.shape[2])

    def block(self, first: int, end: int) -> ChoiceBatch:
        rows = slice(first, end)
        return ChoiceBatch(self.batch.differences[rows], self.batch.outcomes[rows], self.batch.present[rows])


@dataclass(frozen=True)
class TrainedBases:
    """What a simulated fleet ends with. ``epsilon`` at ``delta`` (infinite without noise): user level, everybody in
    every round, no amplification claimed. ``gains`` (strengths, K): the choice round's noisy means, nats per choice.
    ``spectrum``: eigenvalues of the noisy moments, largest first. ``bytes_up``: one person's masked vectors in all.
    """

    bank: Bank
    gains: Array
    spectrum: Array
    epsilon: float
    delta: float
    noise_multiplier: float
    rounds: int
    people: int
    bytes_up: int


def identity_map(dimension: int) -> FeatureMap:
    """A map for features that are k numbers already."""
    return FeatureMap(("style",), "", "", np.zeros(dimension, np.float32), np.eye(dimension, dtype=np.float32))


def train_reward_bases(
    people: Sequence[Choices] | ChoiceBatch | ChoiceStream,
    plan: RewardPlan = DEFAULT_PLAN,
    *,
    noise_multiplier: float | None = None,
    epsilon: float | None = None,
    delta: float = 1e-5,
    seed: int = 0,
    feature_map: FeatureMap | None = None,
    minimum_survivors: int = 0,
    on_round: Callable[[RoundOutcome, RewardBases], None] = lambda outcome, algorithm: None,
) -> TrainedBases:
    """Run the plan over a population (each person's choices oldest first, differences of ``feature_map``'s phi).

    Give ``noise_multiplier`` z of every round, or the ``epsilon`` at ``delta`` that all rounds together may spend, or
    neither (no noise). ``minimum_survivors``: the cohort for which noise shares are sized; 0 is everybody, as if
    nobody could vanish. ``on_round`` sees every released outcome with the algorithm after it.
    """
    if isinstance(people, Sequence):
        people = ChoiceBatch.of(people)
    stream = _InMemory(people) if isinstance(people, ChoiceBatch) else people
    if noise_multiplier is not None and epsilon is not None:
        raise PenchantError("give noise_multiplier or epsilon, not both")
    cohort = min(stream.people, WHOLE_PAGES)
    z = noise_multiplier or 0.0
    if epsilon is not None:
        z = noise_multiplier_for(epsilon, delta, plan.rounds) * 1.001  # integer noise is worth a trifle less
    random = np.random.default_rng(seed)
    algorithm = RewardBases(feature_map or identity_map(stream.dimension), plan)
    accountant, outcomes, bytes_up = Accountant(), list[RoundOutcome](), 0
    while (wanted := algorithm.next_task(outcomes)) is not None:
        task = task_from_plan(
            wanted,
            run_id="simulated",
            round=len(outcomes),
            attempt=0,
            cohort_size=cohort,
            minimum_survivors=minimum_survivors or cohort,
            dropout_fraction=0.0,
            noise_multiplier=z,
            delta=delta,
            ring_bits=16 if cohort <= NARROW_RING else 32,
            artefacts={},
        ).model_copy(update={"rotation_seed": int(random.integers(1 << 62)), "graph_seed": 0})
        mechanism = RoundPlan.of(task)
        accountant.add(mechanism.privacy_event())
        bytes_up += packed_size(mechanism.layout.dimension, task.ring_bits)
        outcome = _sum(stream, task, mechanism, wanted["artefacts"], algorithm.feature_map, random)
        algorithm.absorb(task, outcome.mean_update, cohort, outcome.metrics)
        outcomes.append(outcome)
        on_round(outcome, algorithm)
    gains = algorithm.gains if algorithm.gains is not None else np.zeros((0, 0))
    return TrainedBases(
        algorithm.bank,
        gains,
        algorithm.spectrum,
        accountant.epsilon(delta),
        delta,
        z,
        len(outcomes),
        stream.people,
        bytes_up,
    )


def pages_of(people: int, round: int) -> list[int]:
    """Which blocks of ``PEOPLE_AT_ONCE`` people a round asks: all, or of more people than a cohort may have the next
    whole ones, all in turn."""
    pages = people // PEOPLE_AT_ONCE
    if people <= WHOLE_PAGES:
        return list(range(-(-people // PEOPLE_AT_ONCE)))
    taken = WHOLE_PAGES // PEOPLE_AT_ONCE
    return [(round * taken + place) % pages for place in range(taken)]


def _sum(
    people: ChoiceStream,
    task: RoundTask,
    mechanism: RoundPlan,
    artefacts: dict[str, bytes],
    feature_map: FeatureMap,
    random: np.random.Generator,
) -> RoundOutcome:
    """One round's outcome, everybody surviving."""
    k, digest = feature_map.dimension, feature_map.digest
    order = RewardWorkOrder.of(task, k)
    bank = Bank.from_bytes(artefacts["bank"], space_sha256=digest, dimension=k)
    whitening = Coordinates.from_bytes(artefacts["whitening"], frame_sha256=digest, dimension=k).rows
    total, count = np.zeros(mechanism.layout.dimension, dtype=np.int64), task.cohort_size
    for page in pages_of(people.people, task.round):
        part = people.block(page * PEOPLE_AT_ONCE, min((page + 1) * PEOPLE_AT_ONCE, people.people))
        given = contribution(part, order, bank, whitening)
        for vector, loss, examples in zip(given.vectors, given.loss, given.counts, strict=True):
            joint, _ = mechanism.layout.pack(vector, float(loss * examples), int(examples), task.clip_norm)
            total += mechanism.codec.encode(joint, random)
    noise = mechanism.noise
    everybody = replace(noise, noise_multiplier=noise.effective_noise_multiplier(count), minimum_survivors=1)
    total += everybody.sample_share(len(total), random)
    return decode_sum(task, reduce_to_ring(total, task.ring_bits), count)


def centralised_bases(
    people: Sequence[Choices] | ChoiceBatch,
    count: int,
    *,
    sweeps: int = 30,
    tie_width: float = 0.0,
    seed: int = 0,
    space_sha256: str = "",
) -> Bank:
    """LoRe with everybody's choices in one place: alternate between everybody's weights and (shared, directions).

    Weights are posterior modes, directions and shared taste minimise the nll at those weights (L-BFGS), rows are made
    orthonormal and the spread is re-estimated from the weights' second moments (expectation maximisation). The
    directions start as the leading principal components of people's own fits.
    """
    batch = people if isinstance(people, ChoiceBatch) else ChoiceBatch.of(people)
    x, y, present = batch.differences, batch.outcomes, batch.present
    k, random = x.shape[2], np.random.default_rng(seed)
    digest = space_sha256 or identity_map(k).digest
    per_person = np.where(present, 1.0 / np.maximum(present.sum(1, keepdims=True), 1), 0.0) / len(x)

    def solve(weights: Array, start: Array) -> Array:
        """(K + 1, k): shared taste and directions that minimise the mean of people's mean nll."""
        mixed = np.concatenate([np.ones((len(x), 1)), weights], axis=1)

        def value(flat: Array) -> tuple[float, Array]:
            rewards = np.einsum("nmk,nk->nm", x, mixed @ flat.reshape(-1, k))
            slope = choice_gradient(rewards, y, tie_width) * per_person
            gradient = mixed.T @ np.einsum("nm,nmk->nk", slope, x)
            return float((choice_nll(rewards, y, tie_width) * per_person).sum()), gradient.ravel()

        return np.asarray(optimize.minimize(value, start.ravel(), jac=True, method="L-BFGS-B",
                                            options={"maxiter": 15}).x).reshape(-1, k)  # fmt: skip

    taste = solve(np.zeros((len(x), 0)), np.zeros((1, k)))
    if not count:
        return Bank.of_shared("reward", digest, taste[0], tie_width)
    slope = np.where(present, choice_gradient(x @ taste[0], y, tie_width), 0.0)
    scores = np.einsum("nm,nmk->nk", slope, x)
    rows, _ = orthonormal_rows(scores + 1e-9 * random.normal(size=scores.shape))
    spread = np.full(count, 2.0 * float(np.sqrt(k / np.square(x).sum(2).mean())) / np.sqrt(count))
    bank = Bank("reward", digest, taste[0], rows[:count], spread, np.zeros((0, count)), tie_width)
    for _ in range(sweeps):
        fit = fit_weights_batch(batch, bank)
        found = solve(fit.weights, np.concatenate([bank.shared[None], bank.directions]))
        second = fit.weights.T @ fit.weights / len(x) + fit.covariance.mean(0)
        # rows and second moments together: only directions^T second directions matters
        rows, lengths = orthonormal_rows(np.linalg.cholesky(second).T @ found[1:])
        bank = replace(bank, shared=found[0], directions=rows, spread=np.asarray(lengths))
    return bank
