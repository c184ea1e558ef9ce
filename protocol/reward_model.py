"""A person's taste from their choices: Bradley-Terry with ties, few private weights on a bank of directions.

    d = r(first) - r(second) = (shared + w @ directions) . (phi(first) - phi(second))
    P(first) = sigma(d - eta),   P(second) = sigma(-d - eta),   P(tie) = the rest         (Rao and Kupper 1967)

``eta`` >= 0 is the tie width (their ln theta). At eta = 0 the model has no ties, and one that is met counts half as
"first" and half as "second". All three terms are convex in d, so the weights that maximise the posterior under
``w ~ N(0, diag(spread^2))`` are unique; Newton's method finds them in a few steps. The reward is LoRe's (arXiv
2504.14439, section 3) with real weights and a Gaussian prior in place of its simplex: no signal is the shared taste.

Everything is batched: n people, m choices each (padded, ``present`` (n, m) says which are real), K directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.bank import Bank
from protocol.errors import ProtocolError

FIRST: Final = 1.0
TIE: Final = 0.5
SECOND: Final = 0.0

Array = NDArray[np.float64]

_NEWTON_STEPS: Final = 60
_HALVINGS: Final = 30
_TOLERANCE: Final = 1e-9  # of a whitened weight


@dataclass(frozen=True, eq=False)
class Choices:
    """One person's choices, oldest first: ``differences`` (m, k) = phi(first) - phi(second), ``outcomes`` (m,) of
    1.0 (first), 0.0 (second) and 0.5 (tie). m may be 0."""

    differences: Array
    outcomes: Array

    def __post_init__(self) -> None:
        if self.differences.ndim != 2 or self.outcomes.shape != self.differences.shape[:1]:
            raise ProtocolError("choices are differences (m, k) with one outcome each")
        if not np.isfinite(self.differences).all() or not np.isin(self.outcomes, (FIRST, TIE, SECOND)).all():
            raise ProtocolError("a choice has finite features and the outcome 1 (first), 0 (second) or 0.5 (tie)")

    def __len__(self) -> int:
        return len(self.outcomes)

    def part(self, which: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Choices:
        """Some of the choices."""
        return Choices(self.differences[which], self.outcomes[which])


@dataclass(frozen=True, eq=False)
class ChoiceBatch:
    """n people's choices, padded with zeros to one length: ``differences`` (n, m, k), ``outcomes`` and ``present``
    (n, m)."""

    differences: Array
    outcomes: Array
    present: NDArray[np.bool_]

    @staticmethod
    def of(people: Sequence[Choices]) -> ChoiceBatch:
        """Pads the people's choices to the longest of them."""
        if not people:
            raise ProtocolError("a batch needs at least one person")
        longest = max(1, *(len(choices) for choices in people))
        shape = (len(people), longest)
        differences = np.zeros((*shape, people[0].differences.shape[1]))
        outcomes, present = np.zeros(shape), np.zeros(shape, dtype=bool)
        for row, choices in enumerate(people):
            differences[row, : len(choices)] = choices.differences
            outcomes[row, : len(choices)] = choices.outcomes
            present[row, : len(choices)] = True
        return ChoiceBatch(differences, outcomes, present)


@dataclass(frozen=True, eq=False)
class WeightFit:
    """``weights`` (K,), the most probable ones, and their ``covariance`` (K, K) (Laplace); (n, K) and (n, K, K) for a
    batch of n people."""

    weights: Array
    covariance: Array


# ----- the likelihood of a choice -----


def log_sigmoid(x: Array) -> Array:
    """``log(1 / (1 + exp(-x)))`` without overflow, elementwise."""
    result: Array = -np.logaddexp(0.0, -x)
    return result


def choice_nll(rewards_difference: Array, outcomes: Array, tie_width: float) -> Array:
    """-log P(outcome) in nats, elementwise."""
    d, eta = rewards_difference, tie_width
    if eta == 0.0:
        untied: Array = np.asarray(-outcomes * log_sigmoid(d) - (1.0 - outcomes) * log_sigmoid(-d))
        return untied
    # sigma(d + eta) - sigma(d - eta) = sigma(d + eta) sigma(eta - d) (1 - exp(-2 eta)): no difference of near equals
    tie = -log_sigmoid(d + eta) - log_sigmoid(eta - d) - np.log(-np.expm1(-2.0 * eta))
    decided = np.where(outcomes == FIRST, -log_sigmoid(d - eta), -log_sigmoid(-d - eta))
    result: Array = np.where(outcomes == TIE, tie, decided)
    return result


def choice_gradient(rewards_difference: Array, outcomes: Array, tie_width: float) -> Array:
    """d choice_nll / d rewards_difference, elementwise; in [-1, 1]."""
    d, eta = rewards_difference, tie_width
    above, below = _sigmoid(d + eta), _sigmoid(d - eta)
    # first: -(1 - below), second: above, tie (and, at eta = 0, twice the half-and-half): their sum
    tie = (above - 1.0 + below) * (0.5 if eta == 0.0 else 1.0)
    result: Array = np.where(outcomes == TIE, tie, np.where(outcomes == FIRST, below - 1.0, above))
    return result


def choice_curvature(rewards_difference: Array, outcomes: Array, tie_width: float) -> Array:
    """Second derivative of choice_nll, elementwise; >= 0."""
    d, eta = rewards_difference, tie_width
    above, below = _sigmoid(d + eta), _sigmoid(d - eta)
    above, below = above * (1.0 - above), below * (1.0 - below)
    tie = (above + below) * (0.5 if eta == 0.0 else 1.0)
    result: Array = np.where(outcomes == TIE, tie, np.where(outcomes == FIRST, below, above))
    return result


def tie_probability(rewards_difference: Array, tie_width: float) -> Array:
    """P(tie), elementwise."""
    return _sigmoid(rewards_difference + tie_width) - _sigmoid(rewards_difference - tie_width)


def _sigmoid(x: Array) -> Array:
    result: Array = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result


# ----- fits -----


def fit_weights(choices: Choices, bank: Bank) -> WeightFit:
    """A person's weights on the bank's directions: the posterior's mode under N(0, diag(spread^2)).

    No choices, or no spread, give weights of 0. Raises ProtocolError if the features are not the bank's.
    """
    fit = fit_weights_batch(ChoiceBatch.of([choices]), bank)
    return WeightFit(fit.weights[0], fit.covariance[0])


def fit_weights_batch(people: ChoiceBatch, bank: Bank) -> WeightFit:
    """``fit_weights`` for n people at once: weights (n, K), covariance (n, K, K)."""
    if people.differences.shape[2] != bank.dimension:
        raise ProtocolError(f"choices of {people.differences.shape[2]} features do not fit a bank of {bank.dimension}")
    base, along = people.differences @ bank.shared, people.differences @ (bank.directions * bank.spread[:, None]).T
    whitened, inverse = _newton(base, along, people.outcomes, people.present, bank.tie_width)
    return WeightFit(whitened * bank.spread, inverse * bank.spread[:, None] * bank.spread[None, :])


def fit_direction(choices: Choices, shared: Array, prior_deviation: float, tie_width: float = 0.0) -> Array:
    """A person's own taste (k,), every feature free: the mode under N(shared, prior_deviation^2 I).

    With ``shared`` = 0 it is the fit from scratch; less ``shared`` it is the personal residual.
    """
    own: Array = fit_direction_batch(ChoiceBatch.of([choices]), shared, prior_deviation, tie_width)[0]
    return own


def fit_direction_batch(people: ChoiceBatch, shared: Array, prior_deviation: float, tie_width: float = 0.0) -> Array:
    """``fit_direction`` for n people at once: (n, k)."""
    # The residual lies in the span of the person's own differences: min(m, k) numbers, whatever k is.
    basis, along = np.linalg.qr(np.swapaxes(people.differences, 1, 2))  # (n, k, q), (n, q, m)
    base = people.differences @ shared
    along = prior_deviation * np.swapaxes(along, 1, 2)
    whitened, _ = _newton(base, along, people.outcomes, people.present, tie_width)
    own: Array = shared + prior_deviation * np.einsum("nkq,nq->nk", basis, whitened)
    return own


def _newton(
    base: Array, along: Array, outcomes: Array, present: NDArray[np.bool_], tie_width: float
) -> tuple[Array, Array]:
    """(modes (n, K), inverse Hessians (n, K, K)) of sum_i nll(base_i + along_i . v) + |v|^2 / 2.

    ``base`` (n, m), ``along`` (n, m, K). Newton's method; a step that does not lower a person's objective is halved.
    """
    people, count = along.shape[0], along.shape[2]
    v: Array = np.zeros((people, count))

    def objective(weights: Array) -> Array:
        rewards = base + np.einsum("nmk,nk->nm", along, weights)
        nll = np.where(present, choice_nll(rewards, outcomes, tie_width), 0.0)
        total: Array = nll.sum(1) + 0.5 * np.square(weights).sum(1)
        return total

    value = objective(v)
    for _ in range(_NEWTON_STEPS):
        rewards = base + np.einsum("nmk,nk->nm", along, v)
        slope = np.where(present, choice_gradient(rewards, outcomes, tie_width), 0.0)
        bend = np.where(present, choice_curvature(rewards, outcomes, tie_width), 0.0)
        gradient = v + np.einsum("nmk,nm->nk", along, slope)
        hessian = np.eye(count) + np.swapaxes(along, 1, 2) @ (bend[:, :, None] * along)
        step = -np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        if not step.size or float(np.abs(step).max()) < _TOLERANCE:
            break
        factor = np.ones((people, 1))
        for _ in range(_HALVINGS):
            reached = objective(v + factor * step)
            worse = reached > value + 1e-12 * np.abs(value)
            if not worse.any():
                break
            factor[worse] /= 2
        v = v + factor * step
        value = objective(v)
    return v, np.asarray(np.linalg.inv(hessian), dtype=np.float64)
