"""LoRe as published: shared bases and, per person, a mixture on the simplex. The baseline beside our own bases.

    reward of person u = (V softmax(W_u)) . phi / 100 ,        V (k, B), W (people, B) logits

is trained centrally on -log sigma of the reward's difference, the mean over each person's decided choices and the
sum over people, by Adam (rate 0.5) on V and W at once from normal random values; then weights are fitted with V held
fixed (Adam, rate 0.1, 500 steps). Bose et al., "LoRe: Personalizing LLMs via Low-Rank Reward Modeling" (arXiv
2504.14439, section 3), and its released code, with a stable log-sigmoid. It knows no ties: those are left out of its
training. There is no prior: with no choices the weights are uniform.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from protocol.reward_model import TIE, Choices

Array = NDArray[np.float64]

_TEMPERATURE: Final = 100.0
_RATE: Final = 0.5
_FEW_SHOT_RATE: Final = 0.1
_FEW_SHOT_STEPS: Final = 500


@dataclass
class Adam:
    """Adam (Kingma and Ba 2015) with its usual constants, in place on one array."""

    rate: float
    steps: int = 0
    mean: Array | float = 0.0
    square: Array | float = 0.0

    def step(self, parameter: Array, gradient: Array) -> None:
        """Moves `parameter` against `gradient`."""
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        corrected = self.mean / (1.0 - 0.9**self.steps)
        parameter -= self.rate * corrected / (np.sqrt(self.square / (1.0 - 0.999**self.steps)) + 1e-8)


@dataclass(frozen=True, eq=False)
class DecidedChoices:
    """Everybody's decided choices in rows: `won` (M, k) = phi(chosen) - phi(rejected), `person` (M,) in 0..n-1 and
    ascending, `weight` (M,) = one over the choices of that person.
    """

    won: Array
    person: NDArray[np.int64]
    weight: Array
    people: int

    @staticmethod
    def of(people: Sequence[Choices]) -> DecidedChoices:
        """Turns every decided choice so that the chosen one comes first."""
        rows, owners, weights = [], [], []
        for number, choices in enumerate(people):
            decided = choices.outcomes != TIE
            signs = np.where(choices.outcomes[decided] > TIE, 1.0, -1.0)
            rows.append(choices.differences[decided] * signs[:, None])
            owners.append(np.full(len(signs), number))
            weights.append(np.full(len(signs), 1.0 / max(1, len(signs))))
        return DecidedChoices(np.concatenate(rows), np.concatenate(owners), np.concatenate(weights), len(people))

    def sums(self, values: Array) -> Array:
        """(people, ...): the rows of `values` (M, ...) added up per person."""
        rows = np.arange(len(values))
        total: Array = csr_array((np.ones(len(values)), (self.person, rows)), (self.people, len(values))) @ values
        return total


def train_softmax_lore(
    people: Sequence[Choices],
    bases: int,
    steps: int,
    seed: int,
    on_step: Callable[[int, Array, Array], None] | None = None,
) -> Array:
    """V (k, bases) after `steps` of Adam on V and all W at once; `on_step` sees (number of the step, V, everybody's
    shares)."""
    data = DecidedChoices.of(people)
    random = np.random.default_rng([seed, bases])
    directions = random.standard_normal((data.won.shape[1], bases))
    logits = random.standard_normal((data.people, bases))
    along_directions, along_logits = Adam(_RATE), Adam(_RATE)
    for step in range(1, steps + 1):
        shares = softmax(logits)
        scores = data.won @ directions  # (M, B)
        own = shares[data.person]
        slope = _slope(data, np.einsum("mb,mb->m", scores, own))
        gradient = data.won.T @ (slope[:, None] * own)
        along_logits.step(logits, _logit_gradient(shares, data.sums(slope[:, None] * scores)))
        along_directions.step(directions, gradient)
        if on_step is not None:
            on_step(step, directions, softmax(logits))
    return directions


def fit_softmax_weights(people: Sequence[Choices], directions: Array) -> Array:
    """(people, B) shares on the simplex with V = `directions` (k, B) held fixed; uniform for a person without a
    decided choice.
    """
    data = DecidedChoices.of(people)
    logits = np.zeros((data.people, directions.shape[1]))
    scores = data.won @ directions
    along = Adam(_FEW_SHOT_RATE)
    for _ in range(_FEW_SHOT_STEPS if len(scores) else 0):
        shares = softmax(logits)
        slope = _slope(data, np.einsum("mb,mb->m", scores, shares[data.person]))
        along.step(logits, _logit_gradient(shares, data.sums(slope[:, None] * scores)))
    return softmax(logits)


def softmax_tastes(shares: Array, directions: Array) -> Array:
    """(people, k): the reward vector of each row of `shares` (people, B)."""
    tastes: Array = shares @ directions.T / _TEMPERATURE
    return tastes


def softmax(logits: Array) -> Array:
    """Row-wise softmax."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = raised / raised.sum(axis=1, keepdims=True)
    return shares


def _slope(data: DecidedChoices, rewards: Array) -> Array:
    """(M,) d loss / d (100 z) for rewards (M,) = 100 z."""
    slope: Array = -data.weight / _TEMPERATURE / (1.0 + np.exp(np.minimum(rewards / _TEMPERATURE, 500.0)))
    return slope


def _logit_gradient(shares: Array, share_gradient: Array) -> Array:
    gradient: Array = shares * (share_gradient - np.sum(shares * share_gradient, axis=1, keepdims=True))
    return gradient
