"""The methods that the choice tables compare, behind one signature: n people's choices in, n reward vectors out.

A method is fitted on the fleet's training choices and then understands anybody, fleet or newcomer, from their own
choices alone. Its settings are tuned on the latest quarter of the training choices of the 1,000 fleet people with the
most of them, by likelihood, the two central LoRe by accuracy, which is what they are judged by; nobody's held-out
choices and no newcomer take part.

| method | learnt from the fleet | learnt per person |
|---|---|---|
| `global` | one Bradley-Terry vector with ridge, centrally | nothing |
| `scratch` | a prior deviation | the whole vector, around 0 |
| `map` | `global`, a prior deviation | the whole vector, around `global` (hierarchical) |
| `lore_softmax` | LoRe as published (`simulations.choices.softmax_lore`), centrally | weights on the simplex |
| `lore_centralised` | the bank of `simulations.choices.reward_fleet`, centrally | weights under the bank's prior |
| `ours_residual` | `ours`, and a deviation for what no basis holds | weights, and a small residual around them |
| `ours`, `ours_epsilon_E` | the bank from a federation's sums, at epsilon E | weights under the bank's prior |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from protocol.bank import Bank
from protocol.reward_model import (
    TIE,
    ChoiceBatch,
    Choices,
    choice_curvature,
    choice_gradient,
    choice_nll,
    fit_direction_batch,
    fit_weights_batch,
)
from simulations.choices.reward_fleet import centralised_bases
from simulations.choices.scores import decided_accuracy
from simulations.choices.softmax_lore import fit_softmax_weights, softmax_tastes, train_softmax_lore

Array = NDArray[np.float64]
Tastes = Callable[[Sequence[Choices]], Array]

TUNING_FRACTION: Final = 0.25
TUNING_PEOPLE: Final = 1000
PRIOR_DEVIATIONS: Final = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
RESIDUAL_DEVIATIONS: Final = (0.0, 0.25, 0.5, 1.0, 2.0)
BASES: Final = (0, 1, 2, 4, 8, 12)
SWEEPS: Final = 15
LORE_BASES: Final = (2, 4, 8, 16)
LORE_STEPS: Final = 600
LORE_CHECKS: Final = 100  # steps between looks at the tuning choices
_CHUNK: Final = 256  # people fitted at once
_LARGEST_TIE_WIDTH: Final = 4.0


@dataclass(frozen=True)
class Method:
    """`tastes(people)` gives (n, k) reward vectors from n people's choices; `settings` is what tuning chose."""

    name: str
    tastes: Tastes
    tie_width: float
    settings: dict[str, float] = field(default_factory=dict)


def tuning_split(people: Sequence[Choices]) -> tuple[list[Choices], list[Choices]]:
    """The choices of the people with the most of them, without, and only, the latest quarter."""
    people = sorted(people, key=len, reverse=True)[:TUNING_PEOPLE]
    cuts = [len(own) - round(len(own) * TUNING_FRACTION) for own in people]
    early = [own.part(slice(0, cut)) for own, cut in zip(people, cuts, strict=True)]
    late = [own.part(slice(cut, None)) for own, cut in zip(people, cuts, strict=True)]
    return early, late


def mean_nll(tastes: Array, people: Sequence[Choices], tie_width: float) -> float:
    """Nats per choice, every choice counting the same; `tastes` (n, k)."""
    losses = [
        choice_nll(own.differences @ taste, own.outcomes, tie_width) for own, taste in zip(people, tastes, strict=True)
    ]
    return float(np.concatenate(losses).mean())


def mean_accuracy(tastes: Array, people: Sequence[Choices]) -> float:
    """Share of all decided choices that `tastes` (n, k) get right."""
    return decided_accuracy(
        np.concatenate([own.differences @ taste for own, taste in zip(people, tastes, strict=True)]),
        np.concatenate([own.outcomes for own in people]),
    )


def in_chunks(fit: Callable[[ChoiceBatch], Array]) -> Tastes:
    """`fit` over a few hundred people at a time: a batch is padded to its busiest person."""

    def tastes(people: Sequence[Choices]) -> Array:
        return np.concatenate(
            [fit(ChoiceBatch.of(people[start : start + _CHUNK])) for start in range(0, len(people), _CHUNK)]
        )

    return tastes


def fit_global(people: Sequence[Choices], prior_deviation: float) -> tuple[Array, float]:
    """(taste (k,), tie width): the likeliest pair under N(0, prior_deviation^2 I), every choice counting the same."""
    differences = np.concatenate([own.differences for own in people])
    outcomes = np.concatenate([own.outcomes for own in people])
    taste = np.zeros(differences.shape[1])
    tie_width = 0.0
    for _ in range(4):  # taste and tie width hardly depend on each other
        taste = _newton(differences, outcomes, taste, prior_deviation, tie_width)
        tie_width = _fit_tie_width(differences @ taste, outcomes)
    return taste, tie_width


def _fit_tie_width(rewards: Array, outcomes: Array) -> float:
    """The likeliest tie width for these rewards; 0 where nobody ever tied."""
    if not (outcomes == TIE).any():
        return 0.0
    return float(
        minimize_scalar(
            lambda width: choice_nll(rewards, outcomes, width).sum(),
            bounds=(1e-3, _LARGEST_TIE_WIDTH),
            method="bounded",
        ).x
    )


def _newton(differences: Array, outcomes: Array, start: Array, prior_deviation: float, tie_width: float) -> Array:
    taste = start
    for _ in range(50):
        rewards = differences @ taste
        gradient = differences.T @ choice_gradient(rewards, outcomes, tie_width) + taste / prior_deviation**2
        curvature = choice_curvature(rewards, outcomes, tie_width)
        hessian = (differences * curvature[:, None]).T @ differences + np.eye(len(taste)) / prior_deviation**2
        step = np.linalg.solve(hessian, gradient)
        # A step this long overshoots where the logistic function is flat.
        step *= min(1.0, 8.0 / max(1e-12, float(np.abs(differences @ step).max())))
        taste = taste - step
        if float(np.abs(step).max()) < 1e-8:
            break
    return taste


def _best(values: Sequence[float], loss: Callable[[float], float]) -> float:
    return min(values, key=loss)


def global_method(people: Sequence[Choices]) -> Method:
    """One vector for everybody."""
    early, late = tuning_split(people)

    def loss(deviation: float) -> float:
        taste, tie_width = fit_global(early, deviation)
        return mean_nll(np.tile(taste, (len(late), 1)), late, tie_width)

    deviation = _best(PRIOR_DEVIATIONS, loss)
    taste, tie_width = fit_global(people, deviation)
    return Method(
        "global",
        lambda own: np.tile(taste, (len(own), 1)),
        tie_width,
        {"prior_deviation": deviation, "tie_width": round(tie_width, 4)},
    )


def own_direction_method(name: str, people: Sequence[Choices], shared: Array, tie_width: float) -> Method:
    """The whole vector per person, around `shared`: `scratch` with zeros, `map` with the global vector."""
    early, late = tuning_split(people)

    def fit(deviation: float) -> Tastes:
        return in_chunks(lambda batch: fit_direction_batch(batch, shared, deviation, tie_width))

    deviation = _best(PRIOR_DEVIATIONS, lambda deviation: mean_nll(fit(deviation)(early), late, tie_width))
    return Method(name, fit(deviation), tie_width, {"prior_deviation": deviation})


def softmax_lore_method(people: Sequence[Choices], tie_width: float, seed: int) -> Method:
    """LoRe as published, with number of bases and of steps tuned; `tie_width` only reads its rewards."""
    early, late = tuning_split(people)
    tried: list[tuple[float, int, int]] = []

    for bases in LORE_BASES:

        def look(step: int, directions: Array, shares: Array, bases: int = bases) -> None:
            if step % LORE_CHECKS == 0:
                tried.append((-mean_accuracy(softmax_tastes(shares, directions), late), bases, step))

        train_softmax_lore(early, bases, LORE_STEPS, seed, look)
    _, bases, steps = min(tried)
    directions = train_softmax_lore(people, bases, steps, seed)
    return Method(
        "lore_softmax",
        lambda own: softmax_tastes(fit_softmax_weights(own, directions), directions),
        tie_width,
        {"bases": bases, "steps": steps},
    )


def centralised_method(people: Sequence[Choices], tie_width: float) -> Method:
    """LoRe with real weights and a Gaussian prior, all choices in one place; the number of bases is tuned."""
    early, late = tuning_split(people)

    def loss(count: float) -> float:
        bank = centralised_bases(early, int(count), sweeps=SWEEPS, tie_width=tie_width)
        return -mean_accuracy(bank_method("", bank).tastes(early), late)

    bank = centralised_bases(people, int(_best(BASES, loss)), sweeps=SWEEPS, tie_width=tie_width)
    return bank_method("lore_centralised", bank)


def residual_method(people: Sequence[Choices], trained: Bank, tuning: Bank) -> Method:
    """`trained` with a residual: every feature is one more direction, with one small prior deviation for all. The
    deviation is tuned with `tuning`, a bank of the same kind that has not seen the tuning choices.
    """
    early, late = tuning_split(people)

    def loss(deviation: float) -> float:
        return mean_nll(bank_method("", with_residual(tuning, deviation)).tastes(early), late, tuning.tie_width)

    deviation = _best(RESIDUAL_DEVIATIONS, loss)
    method = bank_method("ours_residual", with_residual(trained, deviation))
    return replace(method, settings={"bases": trained.count, "residual_deviation": deviation})


def with_residual(bank: Bank, deviation: float) -> Bank:
    """The bank with one more direction per feature, all of this spread."""
    if not deviation:
        return bank
    k = bank.dimension
    return replace(
        bank,
        directions=np.concatenate([bank.directions, np.eye(k)]),
        spread=np.concatenate([bank.spread, np.full(k, deviation)]),
        centroids=np.zeros((0, bank.count + k)),
    )


def bank_method(name: str, bank: Bank) -> Method:
    """A published bank; each person's weights are fitted under its prior."""
    return Method(
        name,
        in_chunks(lambda batch: bank.mix(fit_weights_batch(batch, bank).weights)),
        bank.tie_width,
        {"bases": bank.count, "tie_width": round(bank.tie_width, 4)},
    )
