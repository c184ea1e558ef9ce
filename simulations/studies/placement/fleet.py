"""Centroids of a simulated fleet: the server's algorithm and the devices' arithmetic for a whole population at once.

Clipping, rotation and rounding are the real ones, person by person; the noise is drawn once for the sum, from the
distribution of the sum of everybody's shares; keys and masks are left out, because they cancel exactly
(`simulations.choices.reward_fleet` does the same for the bank).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from client.centroid_work import kind_statistics
from protocol.accounting import Accountant, noise_multiplier_for
from protocol.bank import Bank
from protocol.centroid_sums import CentroidLayout
from protocol.feature_map import FeatureMap
from protocol.masks import reduce_to_ring
from protocol.mixture_prior import MixturePrior
from protocol.reward_model import ChoiceBatch, fit_weights_batch
from protocol.round_plan import RoundPlan
from server.aggregate import RoundOutcome, decode_sum
from server.centroids import CentroidPlan, CentroidRounds
from server.planning import task_from_plan


@dataclass(frozen=True, eq=False)
class DrawnCentroids:
    """`bank` with its centroids and the mixture `prior` around them. `epsilon` at `delta` is what the centroid rounds
    alone spend, everybody in every round, no amplification claimed; infinite without noise."""

    bank: Bank
    prior: MixturePrior
    epsilon: float
    noise_multiplier: float


def draw_centroids(
    people: ChoiceBatch,
    bank: Bank,
    feature_map: FeatureMap,
    plan: CentroidPlan,
    *,
    epsilon: float | None = None,
    delta: float = 1e-5,
    seed: int = 0,
) -> DrawnCentroids:
    """Run the plan over a population; `epsilon` None is without noise. `seed` draws rounding, rotation and noise."""
    # Integer noise is worth a trifle less than continuous noise.
    z = 0.0 if epsilon is None else noise_multiplier_for(epsilon, delta, plan.rounds) * 1.001
    random, count = np.random.default_rng(seed), len(people.outcomes)
    algorithm = CentroidRounds(bank, feature_map, "0" * 64, plan)
    fit = fit_weights_batch(people, algorithm.bank)
    taking_part = np.asarray(people.present.any(axis=1))
    accountant, outcomes = Accountant(), list[RoundOutcome]()
    while (wanted := algorithm.next_task(outcomes)) is not None:
        task = task_from_plan(
            wanted,
            run_id="simulated",
            round=len(outcomes),
            attempt=0,
            cohort_size=count,
            minimum_survivors=count,
            dropout_fraction=0.0,
            noise_multiplier=z,
            delta=delta,
            ring_bits=16,
            artefacts={},
        ).model_copy(update={"rotation_seed": int(random.integers(1 << 62)), "graph_seed": 0})
        mechanism = RoundPlan.of(task)
        accountant.add(mechanism.privacy_event())
        prior = algorithm.prior
        layout = CentroidLayout.for_clip_norm(task.clip_norm, len(prior.centroids), bank.count)
        found, total = kind_statistics(fit, algorithm.bank, prior), np.zeros(mechanism.layout.dimension, dtype=np.int64)
        for person in range(count):
            vector = np.zeros(layout.dimension)
            if taking_part[person]:
                vector = layout.contribution(
                    int(found.kinds[person]), found.offsets[person], found.second_moments[person]
                )
            joint, _ = mechanism.layout.pack(vector, 0.0, 0, task.clip_norm)
            total += mechanism.codec.encode(joint, random)
        noise = mechanism.noise
        everybody = replace(noise, noise_multiplier=noise.effective_noise_multiplier(count), minimum_survivors=1)
        total += everybody.sample_share(len(total), random)
        outcome = decode_sum(task, reduce_to_ring(total, task.ring_bits), count)
        algorithm.absorb(task, outcome.mean_update, count, outcome.metrics)
        outcomes.append(outcome)
    return DrawnCentroids(
        algorithm.bank.with_centroids(algorithm.prior.centroids), algorithm.prior, accountant.epsilon(delta), z
    )
