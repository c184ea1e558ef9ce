"""What a person adds to a round that learns reward bases: five kinds of vector, each of bounded length.

Everything is in *white* features ``x = (phi(first) - phi(second)) @ whitening``, which vary alike in all directions
over the fleet: steps and clips would suit correlated features badly. The first round finds ``whitening`` (k, k), which
is symmetric. A person's choices i have slope l_i and curvature h_i of their nll under the current bank, weights ``w``
on its directions and s = sqrt(sum_i |x_i|^2), which makes contributions alike whatever the features' unit and weighs
many choices above few.

    work        vector                                                              length
    scales      [-sum_i l_i x_i / s | sum_i x_i x_i^T / s^2 | three numbers]         k + k (k + 1) / 2 + 3
    shared      [-sum_i l_i x_i / s | tie surplus]                                   k + 1
    moments     sum_(i != j) l_i l_j x_i x_j^T / its own size without signal         k (k + 1) / 2
    gradient    [-sum_i (l_i (1, w) + h_i (0, C z_i)) (x) x_i / s | tie surplus]     (K + 1) k + 1
    choice      mean nll saved by K directions on choices held out                   K max * len(STRENGTHS)

*Moments*: the expected outer product of a person's score less what choice noise alone would give (i = j is left out),
so its eigenvectors are the directions in which people differ, unbiased (a blind sketch in one round; its noise: Dwork
et al. 2014). Symmetric matrices travel as an upper triangle with off-diagonal entries times sqrt(2): the same norm.
*Gradient*: LoRe's rank-one gradient (arXiv 2504.14439; derived for federated use as w (x) g), with the weights
marginalised: C is their posterior covariance and z_i = directions @ x_i. The second term is what a plain gradient at
the best w lacks: without it directions grow without end while weights shrink; with it their length *is* the spread of
the fleet, and a direction that explains nothing shrinks to zero (Fisher's identity with Laplace's approximation).

Clipping is done here, part by part, so that the numbers beside a gradient are not scaled with it. All functions take n
people at once; a device is a batch of one, so a simulated fleet computes with the very code of a device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from protocol.bank import Bank
from protocol.errors import ProtocolError
from protocol.messages import RoundTask
from protocol.reward_model import (
    TIE,
    Array,
    ChoiceBatch,
    choice_curvature,
    choice_gradient,
    choice_nll,
    fit_weights_batch,
    tie_probability,
)

Work = Literal["scales", "shared", "moments", "gradient", "choice"]

STRENGTHS: Final = (1.0, 0.6)  # of the spread: noise lengthens directions, so held-out choices may prefer less
NUMBER_WEIGHT: Final = 0.1  # of the clip norm: bound on the tie surplus beside a gradient
SCALES_WEIGHT: Final = 0.45  # of the clip norm: bound on each number of the first round
SHARE_WEIGHT: Final = 0.45  # of the clip norm: bound on the second moments of features
TYPICAL_SHARE: Final = 0.3  # norm of a person's second moments (their trace is 1) that is let through
OCTAVES: Final = 4.0  # numbers of the first round are logarithms to base 2, up to so far from their centre
CENTRAL_COUNT: Final = 16.0  # choices of a person at the centre


@dataclass(frozen=True)
class RewardWorkOrder:
    """One round's question: ``work`` on ``dimension`` features k with ``count`` directions K, everything within
    ``clip_norm``. ``held_out``: the newest fraction of each person's choices that this round must not train on."""

    work: Work
    dimension: int
    count: int
    clip_norm: float
    held_out: float

    def __post_init__(self) -> None:
        if self.work not in get_args(Work) or not 0.0 <= self.held_out < 1.0:
            raise ProtocolError("this device does not know this work on rewards; update it")

    @staticmethod
    def of(task: RoundTask, dimension: int) -> RewardWorkOrder:
        """The order in a task's settings, for ``dimension`` features. Raises ProtocolError if it is none."""
        given = task.settings
        if task.space != "reward" or set(given) != {"work", "directions", "held_out"}:
            raise ProtocolError("the round asks for other work on rewards than this device knows; update it")
        order = RewardWorkOrder(
            cast(Work, given["work"]), dimension, int(given["directions"]), task.clip_norm, float(given["held_out"])
        )
        if order.length != task.update_dimension:
            raise ProtocolError("the round's vector has another length than its work; the sender runs another version")
        return order

    @property
    def settings(self) -> dict[str, int | float | str]:
        """What a task says of it, beside its clip norm."""
        return {"work": self.work, "directions": self.count, "held_out": self.held_out}

    @property
    def length(self) -> int:
        """Numbers in the vector."""
        k = self.dimension
        lengths = {
            "scales": k + k * (k + 1) // 2 + 3,
            "shared": k + 1,
            "moments": k * (k + 1) // 2,
            "gradient": (self.count + 1) * k + 1,
            "choice": self.count * len(STRENGTHS),
        }
        return lengths[self.work]

    @property
    def gradient_norm(self) -> float:
        """What is left of the clip norm for a gradient beside its numbers."""
        beside = 3 * SCALES_WEIGHT**2 + SHARE_WEIGHT**2 if self.work == "scales" else NUMBER_WEIGHT**2
        return self.clip_norm * float(np.sqrt(1.0 - beside))


@dataclass(frozen=True, eq=False)
class Contribution:
    """``vectors`` (n, length) within the clip norm; ``loss`` (n,) mean nll per choice under the bank, ``counts`` (n,)
    choices it is a mean over."""

    vectors: Array
    loss: Array
    counts: NDArray[np.int64]


def contribution(people: ChoiceBatch, order: RewardWorkOrder, bank: Bank, whitening: Array) -> Contribution:
    """What n people add. ``bank`` is in the features' own units, ``whitening`` (k, k) makes them white.

    A person without choices adds zero.
    """
    k = order.dimension
    if bank.dimension != k or bank.count != order.count or whitening.shape != (k, k):
        raise ProtocolError("the round's bank and whitening do not fit its question")
    old = trained_on(people, order.held_out)
    people = ChoiceBatch(people.differences @ whitening, people.outcomes, people.present)
    white = np.linalg.solve(whitening, np.concatenate([bank.shared[None], bank.directions]).T).T
    bank = replace(bank, shared=white[0], directions=white[1:])
    train = ChoiceBatch(people.differences, people.outcomes, old)
    if order.work == "choice":
        held = ChoiceBatch(people.differences, people.outcomes, people.present & ~old)
        vectors = clip_rows(_gains(train, held, bank), order.clip_norm)
    elif order.work == "moments":
        vectors = clip_rows(_moments(train, bank), order.clip_norm)
    else:
        slopes, surplus = _slopes(train, bank)
        gradient = clip_rows(slopes.reshape(len(slopes), -1), order.gradient_norm)
        if order.work == "scales":
            beside = _scale_numbers(train) * order.clip_norm
        else:
            beside = surplus[:, None] * NUMBER_WEIGHT * order.clip_norm
        vectors = np.concatenate([gradient, beside], axis=1)
    rewards = people.differences @ bank.shared
    nll = np.where(old, choice_nll(rewards, people.outcomes, bank.tie_width), 0.0).sum(1)
    counts = old.sum(1)
    vectors[counts == 0] = 0.0
    return Contribution(vectors, nll / np.maximum(counts, 1), counts)


def trained_on(people: ChoiceBatch, held_out: float) -> NDArray[np.bool_]:
    """(n, m): which choices are not among the newest ``held_out`` of their person (rounded to whole choices)."""
    counts = people.present.sum(1)
    kept = counts - np.floor(held_out * counts + 0.5).astype(np.int64)
    place = np.cumsum(people.present, axis=1)  # 1 for the oldest
    mask: NDArray[np.bool_] = people.present & (place <= kept[:, None])
    return mask


def clip_rows(vectors: Array, norm: float) -> Array:
    """Each row (n, L) scaled to an L2 norm of at most ``norm``; rows that are not finite become zero."""
    vectors = np.where(np.isfinite(vectors).all(1, keepdims=True), vectors, 0.0)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    clipped: Array = vectors * np.minimum(1.0, norm / np.maximum(lengths, 1e-300))
    return clipped


def triangle(matrices: Array) -> Array:
    """Symmetric (n, k, k) as (n, k (k + 1) / 2) of the same norm."""
    rows, columns = np.triu_indices(matrices.shape[1])
    packed: Array = matrices[:, rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0))
    return packed


def untriangle(packed: Array, dimension: int) -> Array:
    """Inverse of ``triangle`` for one matrix: (k, k)."""
    rows, columns = np.triu_indices(dimension)
    matrix = np.zeros((dimension, dimension))
    matrix[rows, columns] = packed / np.where(rows == columns, 1.0, np.sqrt(2.0))
    return matrix + np.triu(matrix, 1).T


# ----- the five kinds -----


def _sizes(people: ChoiceBatch) -> tuple[Array, Array]:
    """(|x_i|^2 (n, m), 0 where absent; s (n,))."""
    squares = np.where(people.present, np.square(people.differences).sum(2), 0.0)
    return squares, np.sqrt(squares.sum(1))


def _slopes(people: ChoiceBatch, bank: Bank) -> tuple[Array, Array]:
    """(-gradient (n, K + 1, k) for shared and directions, mean tie surplus (n,): ties less those expected)."""
    x, y, present = people.differences, people.outcomes, people.present
    fit = fit_weights_batch(people, bank)
    along = x @ bank.directions.T  # (n, m, K): z_i
    rewards = x @ bank.shared + np.einsum("nmk,nk->nm", along, fit.weights)
    slope = np.where(present, choice_gradient(rewards, y, bank.tie_width), 0.0)
    bend = np.where(present, choice_curvature(rewards, y, bank.tie_width), 0.0)
    own = slope[:, :, None] * fit.weights[:, None, :] + bend[:, :, None] * (along @ fit.covariance)
    coefficients = np.concatenate([slope[:, :, None], own], axis=2)  # (n, m, K + 1)
    size = np.maximum(_sizes(people)[1], 1e-300)
    gradient = -(np.swapaxes(coefficients, 1, 2) @ x) / size[:, None, None]
    ties = np.where(present, (y == TIE) - tie_probability(rewards, bank.tie_width), 0.0)
    return gradient, ties.sum(1) / np.maximum(present.sum(1), 1)


def _scale_numbers(people: ChoiceBatch) -> Array:
    """(n, k (k + 1) / 2 + 3): second moments with trace 1, log2 of the root mean square |x|, log2 of the count,
    fraction of ties, times their weights; norms within SHARE_WEIGHT and SCALES_WEIGHT each."""
    size = _sizes(people)[1]
    counts = np.maximum(people.present.sum(1), 1)
    x = np.where(people.present[:, :, None], people.differences, 0.0)
    x = x / np.maximum(size, 1e-300)[:, None, None]
    shares = clip_rows(triangle(np.swapaxes(x, 1, 2) @ x), TYPICAL_SHARE) / TYPICAL_SHARE
    octaves = np.stack([np.log2(np.maximum(size, 1e-300) / np.sqrt(counts)), np.log2(counts / CENTRAL_COUNT)], axis=1)
    ties = np.where(people.present, people.outcomes == TIE, 0).sum(1) / counts
    numbers = np.concatenate([np.clip(octaves / OCTAVES, -1.0, 1.0), ties[:, None]], axis=1)
    return np.concatenate([SHARE_WEIGHT * shares, SCALES_WEIGHT * numbers], axis=1)


def _moments(people: ChoiceBatch, bank: Bank) -> Array:
    """(n, k (k + 1) / 2), of norm about 1 for a person in whom there is only noise, whatever they chose."""
    x = people.differences
    slope = choice_gradient(x @ bank.shared, people.outcomes, bank.tie_width)
    scores = np.where(people.present, slope, 0.0)[:, :, None] * x  # (n, m, k): l_i x_i
    total = scores.sum(1)
    products = total[:, :, None] * total[:, None, :] - np.swapaxes(scores, 1, 2) @ scores
    squares = np.square(scores).sum(2)
    size = np.sqrt(np.maximum(squares.sum(1) ** 2 - np.square(squares).sum(1), 0.0))
    return triangle(products) / np.where(size > 0, size, np.inf)[:, None]


def _gains(train: ChoiceBatch, held: ChoiceBatch, bank: Bank) -> Array:
    """(n, K * len(STRENGTHS)): mean nll on ``held`` under the shared taste less that with the first 1 ... K directions
    at each strength, weights fitted on ``train``."""
    counts = np.maximum(held.present.sum(1), 1)

    def loss(taste: Array) -> Array:
        rewards = np.einsum("nmk,nk->nm", held.differences, taste)
        nll = choice_nll(rewards, held.outcomes, bank.tie_width)
        mean: Array = np.where(held.present, nll, 0.0).sum(1) / counts
        return mean

    shared = loss(np.broadcast_to(bank.shared, (len(counts), bank.dimension)))
    gains = []
    for strength in STRENGTHS:
        for count in range(1, bank.count + 1):
            candidate = first_directions(bank, count, strength)
            gains.append(shared - loss(candidate.mix(fit_weights_batch(train, candidate).weights)))
    return np.stack(gains, axis=1)


def first_directions(bank: Bank, count: int, strength: float = 1.0) -> Bank:
    """The bank's first ``count`` directions, with ``strength`` times their spread; centroids are left out."""
    return Bank(bank.space, bank.space_sha256, bank.shared, bank.directions[:count], strength * bank.spread[:count],
                np.zeros((0, count)), bank.tie_width)  # fmt: skip
