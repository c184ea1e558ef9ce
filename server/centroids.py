"""The fleet's kinds of people, from a few noised sums of their private weights.

Each round is one step of hard expectation maximisation for a Gaussian mixture over the weights of a bank
(`protocol.centroid_sums`: what a device adds, and why one person adds at most C). The centroids start where the bank's
own spread expects people. A kind whose noised count does not clear `minimum_people` by three standard deviations of the
noise is dropped: no centroid of one person, or of nobody, is ever published or sent back. While rounds are left, the
widest kind is split in its place. What a round moves a centroid by is shrunk by what its noise explains.

Everything here is post-processing of released sums. All M sums and counts of a round are one vector with one noise, so
a round of centroids spends what any other round at the same noise multiplier spends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.bank import Bank
from protocol.centroid_sums import CentroidLayout, MixtureSums
from protocol.errors import PenchantError
from protocol.feature_map import FeatureMap
from protocol.messages import RoundTask
from protocol.mixture_prior import MixturePrior, prior_quantiser, weight_units, without_centroids
from protocol.taste_release import TasteRelease
from server.aggregate import RoundOutcome
from server.algorithms import noise_in, shrink
from server.reward_bases import RELEASE

PRIOR_RELEASE = "mixture_prior"

NARROWEST = 0.1
"""Smallest spread within a kind, in units of the bank's: noise must not make a kind look like one person."""


@dataclass(frozen=True)
class CentroidPlan:
    """How many kinds to look for, in how many rounds.

    `radius`: bound on a person's offset from their centroid, in units of the bank's spread and times sqrt(K) (1: the
    root mean square distance of a person from the shared model before any kinds are known).
    """

    centroid_count: int = 8
    rounds: int = 5
    radius: float = 1.0
    minimum_people: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.centroid_count < 1 or self.rounds < 1 or self.minimum_people < 2:
            raise PenchantError("centroids need a round, a centroid and at least two people in each kind")


class CentroidRounds:
    """`server.fleet.FleetAlgorithm` for a bank in reward space: publishes it with centroids, and the mixture prior.

    `base_sha256`: the model that the bank's own rounds named. State is a function of the outcomes alone.
    """

    def __init__(self, bank: Bank, feature_map: FeatureMap, base_sha256: str, plan: CentroidPlan) -> None:
        if bank.space != "reward" or bank.space_sha256 != feature_map.digest:
            raise PenchantError("centroids are drawn in reward space, with the feature map that the bank was made for")
        if not bank.count:
            raise PenchantError("a bank without directions has no weights to cluster: learn the bases first")
        data = without_centroids(bank).to_bytes()  # exactly what the devices will hold
        self.bank = Bank.from_bytes(data, space_sha256=feature_map.digest, dimension=feature_map.dimension)
        self.plan, self.feature_map, self._base_sha256 = plan, feature_map, base_sha256
        self.prior = prior_quantiser(self.bank, plan.centroid_count, plan.seed)

    def next_task(self, history: Sequence[RoundOutcome]) -> Mapping[str, Any] | None:
        """The next sum, or None when all are taken or no kind is left."""
        if len(history) >= self.plan.rounds or not len(self.prior.centroids):
            return None
        layout = layout_of(self.bank, self.prior, self.plan)
        return {
            "kind": "shared",
            "space": self.bank.space,
            "dimension": layout.dimension,
            "clip_norm": layout.sensitivity,
            "base_sha256": self._base_sha256,
            "artefacts": {
                "feature_map": self.feature_map.to_bytes(),
                "bank": self.bank.to_bytes(),
                "prior": self.prior.to_bytes(),
            },
            "settings": {"work": "centroids"},
        }

    def absorb(
        self, task: RoundTask, mean_update: NDArray[np.float64], survivors: int, metrics: Mapping[str, float]
    ) -> Mapping[str, bytes]:
        """One step; after the last one, publish the prior and the bank with its centroids."""
        layout = CentroidLayout.for_clip_norm(task.clip_norm, len(self.prior.centroids), self.bank.count)
        sums = layout.read(mean_update * survivors, noise_in(task, survivors, metrics) * survivors)
        self.prior = next_prior(self.prior, self.bank, sums, self.plan.minimum_people)
        if task.round + 1 < self.plan.rounds and len(self.prior.centroids):
            self.prior = reseeded(self.prior, self.bank, sums, self.plan.minimum_people, self.plan.centroid_count)
            return {}
        bank = self.bank.with_centroids(self.prior.centroids)
        return {
            RELEASE: TasteRelease(bank, self.feature_map).to_bytes(),
            PRIOR_RELEASE: self.prior.to_bytes(),
        }


def layout_of(bank: Bank, prior: MixturePrior, plan: CentroidPlan) -> CentroidLayout:
    """The layout of the next round."""
    count, width = prior.centroids.shape
    return CentroidLayout(count, width, plan.radius * math.sqrt(bank.count))


def next_prior(prior: MixturePrior, bank: Bank, sums: MixtureSums, minimum_people: int) -> MixturePrior:
    """The M step: kinds that are large enough move to the mean of their people, the others are dropped.

    The sums are in units of the bank's spread. The spread within a kind comes from the second moments of all
    people about their centroids, never below `NARROWEST` and never above the bank's own.
    """
    kept = large_enough(sums, minimum_people)
    counts = sums.counts[kept]
    if not len(counts):
        return replace(prior, centroids=prior.centroids[kept], shares=np.zeros(0), within=bank.spread)
    steps = [shrink(total / n, sums.deviation / n) for total, n in zip(sums.offsets[kept], counts, strict=True)]
    variances = sums.squares[kept].sum(0) / counts.sum()
    return replace(
        prior,
        centroids=prior.centroids[kept] + weight_units(bank) * np.stack(steps),
        shares=counts / counts.sum(),
        within=bank.spread * np.sqrt(np.clip(variances, NARROWEST**2, 1.0)),
    )


def reseeded(prior: MixturePrior, bank: Bank, sums: MixtureSums, minimum_people: int, count: int) -> MixturePrior:
    """`prior` (after `next_prior` with the same sums) with as many kinds as before: the kind in which one direction
    still holds the most (people times variance) is split along it, until there are `count` again.

    k-means never finds a kind that no centroid started near; a split of what was released looks for it at no cost.
    """
    kept = large_enough(sums, minimum_people)
    centroids, shares = list(prior.centroids), list(prior.shares)
    variances = list(np.clip(sums.squares[kept] / sums.counts[kept][:, None], 0.0, 1.0))
    while 0 < len(centroids) < count:
        held = np.array(shares)[:, None] * np.stack(variances)
        kind, axis = np.unravel_index(held.argmax(), held.shape)
        half = np.zeros(bank.count)
        half[axis] = np.sqrt(variances[kind][axis] / 2.0)
        shares[kind] /= 2.0
        variances[kind] = np.where(half > 0.0, variances[kind] / 2.0, variances[kind])
        centroids.append(centroids[kind] - weight_units(bank) * half)
        centroids[kind] = centroids[kind] + weight_units(bank) * half
        shares.append(shares[kind])
        variances.append(variances[kind])
    return replace(prior, centroids=np.stack(centroids), shares=np.array(shares)) if centroids else prior


def large_enough(sums: MixtureSums, minimum_people: int) -> NDArray[np.bool_]:
    """(M,): kinds that hold `minimum_people` beyond doubt: three standard deviations of the noise on a count."""
    return np.asarray(sums.counts >= minimum_people + 3.0 * sums.count_deviation)
