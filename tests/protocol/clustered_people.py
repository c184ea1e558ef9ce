"""People of a few known kinds who choose between random answers: what placement should find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protocol.bank import Bank
from protocol.mixture_prior import MixturePrior, without_centroids
from protocol.reward_model import ChoiceBatch

FEATURES, DIRECTIONS, KINDS, TIE_WIDTH = 12, 4, 3, 0.2
SPACE = "b" * 64


@dataclass(frozen=True)
class Clustered:
    """`bank` with the true centroids, the true `prior`, and people with their `kinds` (n,) and `weights` (n, K)."""

    bank: Bank
    prior: MixturePrior
    kinds: np.ndarray
    weights: np.ndarray
    people: ChoiceBatch

    def first(self, count: int) -> ChoiceBatch:
        """Everybody's first `count` choices."""
        batch = self.people
        return ChoiceBatch(batch.differences[:, :count], batch.outcomes[:, :count], batch.present[:, :count])


def clustered_people(people: int = 60, choices: int = 40, *, within: float = 0.4, seed: int = 0) -> Clustered:
    """`people` of three kinds that lie 3 apart from the middle."""
    random = np.random.default_rng(seed)
    directions = np.linalg.qr(random.normal(size=(FEATURES, DIRECTIONS)))[0].T
    centroids = 3.0 * np.eye(KINDS, DIRECTIONS)
    centroids[2] *= -1.0
    kinds = random.integers(0, KINDS, people)
    weights = centroids[kinds] + within * random.normal(size=(people, DIRECTIONS))
    shared = 0.5 * random.normal(size=FEATURES)
    spread = np.sqrt(np.mean(centroids**2, axis=0) + within**2)
    bank = Bank("reward", SPACE, shared, directions, spread, centroids, TIE_WIDTH)
    differences = random.normal(size=(people, choices, FEATURES))
    rewards = np.einsum("nmk,nk->nm", differences, bank.mix(weights))
    drawn = random.random(rewards.shape)
    first, second = (1.0 / (1.0 + np.exp(TIE_WIDTH - sign * rewards)) for sign in (1.0, -1.0))
    outcomes = np.where(drawn < first, 1.0, np.where(drawn < first + second, 0.0, 0.5))
    batch = ChoiceBatch(differences, outcomes, np.ones(rewards.shape, dtype=bool))
    prior = MixturePrior(
        without_centroids(bank).digest, centroids, np.full(KINDS, 1 / KINDS), np.full(DIRECTIONS, within)
    )
    return Clustered(bank, prior, kinds, weights, batch)
