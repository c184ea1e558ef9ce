"""How well reward vectors predict people's held-out choices, per person and over people.

Accuracy counts decided choices only (a tie has no right side); a person whose held-out choices are all ties has none.
The nll, in nats per choice, counts all choices under the method's own tie width. Means are over people, each counting
the same, with a percentile bootstrap over people (1,000 resamples); a difference from the global model is paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.reward_model import TIE, Choices, choice_nll

Array = NDArray[np.float64]

RESAMPLES: Final = 1000
SMALLEST_DIFFERENCE: Final = 1e-12  # rewards closer than this are a guess


@dataclass(frozen=True)
class Scores:
    """Per person: `accuracy` (n,), not a number where nothing was decided, and `nll` (n,)."""

    accuracy: Array
    nll: Array


def score(tastes: Array, held_out: Sequence[Choices], tie_width: float) -> Scores:
    """The scores of reward vectors (n, k) on n people's held-out choices."""
    accuracy, nll = [], []
    for taste, choices in zip(tastes, held_out, strict=True):
        rewards = choices.differences @ taste
        nll.append(float(choice_nll(rewards, choices.outcomes, tie_width).mean()))
        accuracy.append(decided_accuracy(rewards, choices.outcomes))
    return Scores(np.array(accuracy), np.array(nll))


def decided_accuracy(rewards: Array, outcomes: Array) -> float:
    """Share of decided choices in which the chosen one has the higher reward; equal rewards count half."""
    decided = outcomes != TIE
    if not decided.any():
        return float("nan")
    toward = np.where(outcomes[decided] > TIE, 1.0, -1.0) * rewards[decided]
    return float(np.where(np.abs(toward) < SMALLEST_DIFFERENCE, 0.5, toward > 0).mean())


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Each person's mean over several runs of the same method, such as seeds of its noise."""
    return Scores(np.mean([one.accuracy for one in scores], axis=0), np.mean([one.nll for one in scores], axis=0))


def bootstrap_interval(values: Array, seed: int = 0, confidence: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of the mean over people; people without a value are left out. One person: infinite bounds."""
    data = values[~np.isnan(values)]
    if len(data) < 2:
        return float(data.mean()) if len(data) else float("nan"), float("-inf"), float("inf")
    random = np.random.default_rng(seed)
    means = np.array([data[random.integers(len(data), size=len(data))].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(data.mean()), float(low), float(high)
