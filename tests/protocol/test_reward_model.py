from __future__ import annotations

import numpy as np
import pytest

from protocol.bank import Bank
from protocol.errors import ProtocolError
from protocol.reward_model import (
    ChoiceBatch,
    Choices,
    choice_curvature,
    choice_gradient,
    choice_nll,
    fit_direction,
    fit_direction_batch,
    fit_weights,
    fit_weights_batch,
    tie_probability,
)

SPACE = "a" * 64
OUTCOMES = np.array([1.0, 0.5, 0.0])


def bank_of(directions: np.ndarray, spread: np.ndarray, tie_width: float = 0.0, seed: int = 3) -> Bank:
    shared = 0.3 * np.random.default_rng(seed).normal(size=directions.shape[1])
    nobody: np.ndarray = np.zeros((0, len(spread)))
    return Bank("reward", SPACE, np.asarray(shared), directions, spread, nobody, tie_width)


def person(count: int, dimension: int = 6, seed: int = 0, ties: bool = True) -> Choices:
    random = np.random.default_rng(seed)
    outcomes = random.choice(OUTCOMES if ties else OUTCOMES[::2], size=count)
    return Choices(random.normal(size=(count, dimension)), outcomes)


@pytest.mark.parametrize("tie_width", [0.0, 0.01, 0.4, 3.0])
def test_first_second_and_tie_are_probabilities(tie_width: float) -> None:
    d = np.linspace(-9, 9, 19)
    first, tie, second = (np.exp(-choice_nll(d, np.full(19, outcome), tie_width)) for outcome in OUTCOMES)
    if tie_width > 0:
        assert np.allclose(first + tie + second, 1.0)
        assert np.allclose(tie, tie_probability(d, tie_width))
    else:  # no ties: one that is met counts half and half
        assert np.allclose(first + second, 1.0)
        assert np.allclose(tie, np.sqrt(first * second))
    assert np.allclose(first, second[::-1]) and (np.diff(first) > 0).all()


@pytest.mark.parametrize("tie_width", [0.0, 0.3, 2.0])
def test_gradient_and_curvature_match_finite_differences(tie_width: float) -> None:
    d, step = np.linspace(-6, 6, 37), 1e-4
    for outcome in OUTCOMES:
        y = np.full(37, outcome)
        up, here, down = (choice_nll(d + shift, y, tie_width) for shift in (step, 0.0, -step))
        assert np.allclose(choice_gradient(d, y, tie_width), (up - down) / (2 * step), atol=1e-7)
        assert np.allclose(choice_curvature(d, y, tie_width), (up - 2 * here + down) / step**2, atol=1e-6)


def test_a_choice_against_a_huge_difference_costs_that_difference() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert choice_nll(np.array([-800.0]), np.array([1.0]), 0.5) == pytest.approx(800.5)
        assert choice_nll(np.array([800.0]), np.array([0.5]), 0.5) > 700
        assert choice_gradient(np.array([-800.0]), np.array([1.0]), 0.0) == pytest.approx(-1.0)


@pytest.mark.parametrize("tie_width", [0.0, 0.4])
def test_fitted_weights_are_where_the_posterior_is_flat(tie_width: float) -> None:
    random = np.random.default_rng(1)
    spread = np.array([0.8, 0.3, 2.0])
    bank, choices = bank_of(random.normal(size=(3, 6)), spread, tie_width), person(40)
    fit = fit_weights(choices, bank)

    def negative_log_posterior(weights: np.ndarray) -> float:
        nll = choice_nll(choices.differences @ bank.mix(weights), choices.outcomes, tie_width)
        return float(nll.sum() + 0.5 * np.square(weights / spread).sum())

    step, eye = 1e-4, np.eye(3)
    for k in range(3):
        shifted = [negative_log_posterior(fit.weights + sign * step * eye[k]) for sign in (1, -1)]
        assert abs(shifted[0] - shifted[1]) / (2 * step) < 1e-6
    hessian = np.array(
        [
            [
                sum(
                    one * two * negative_log_posterior(fit.weights + step * (one * eye[i] + two * eye[j]))
                    for one in (1, -1)
                    for two in (1, -1)
                )
                / (4 * step**2)
                for j in range(3)
            ]
            for i in range(3)
        ]
    )
    assert np.allclose(fit.covariance, np.linalg.inv(hessian), rtol=1e-4)


def test_no_signal_and_no_spread_are_the_shared_taste() -> None:
    random = np.random.default_rng(2)
    bank = bank_of(random.normal(size=(3, 6)), np.array([0.5, 0.0, 1.0]))
    fit = fit_weights(person(30), bank)
    assert fit.weights[1] == 0.0 and not fit.covariance[1].any() and fit.weights[0] != 0.0
    nothing = fit_weights(Choices(np.zeros((0, 6)), np.zeros(0)), bank)
    assert not nothing.weights.any() and np.allclose(nothing.covariance, np.diag(bank.spread**2))
    alike = fit_weights(Choices(np.zeros((5, 6)), np.ones(5)), bank)  # answers that the features cannot tell apart
    assert not alike.weights.any()
    empty = fit_weights(person(5), Bank.of_shared("reward", SPACE, np.ones(6)))
    assert empty.weights.shape == (0,) and empty.covariance.shape == (0, 0)


def test_weights_are_recovered_from_many_choices_and_shrunk_with_few() -> None:
    random = np.random.default_rng(4)
    bank, truth = bank_of(random.normal(size=(2, 6)), np.ones(2), tie_width=0.5), np.array([1.5, -0.7])
    differences = random.normal(size=(4000, 6))
    d = differences @ bank.mix(truth)
    draw, win = random.random(4000), np.exp(-choice_nll(d, np.ones(4000), 0.5))
    outcomes = np.where(draw < win, 1.0, np.where(draw < win + tie_probability(d, 0.5), 0.5, 0.0))
    choices = Choices(differences, outcomes)
    fit = fit_weights(choices, bank)
    assert (np.abs(fit.weights - truth) < 4 * np.sqrt(np.diag(fit.covariance))).all()
    few = [fit_weights(choices.part(slice(0, count)), bank) for count in (0, 4, 400)]
    traces = [np.trace(fit.covariance) for fit in few]
    assert traces == sorted(traces, reverse=True)


def test_extreme_choices_still_converge() -> None:
    choices = Choices(np.array([[1e4, 0.0], [0.0, -1e4], [1.0, 1.0]]), np.array([0.0, 1.0, 1.0]))
    bank = Bank("reward", SPACE, np.array([1.0, 1.0]), np.eye(2), np.array([5.0, 5.0]), np.zeros((0, 2)))
    fit = fit_weights(choices, bank)
    slope = choice_gradient(choices.differences @ bank.mix(fit.weights), choices.outcomes, 0.0)
    assert np.allclose(choices.differences.T @ slope + fit.weights / 25, 0.0, atol=1e-4)


def test_a_batch_is_the_people_one_by_one() -> None:
    people = [person(count, seed=count) for count in (0, 1, 7, 30)]
    bank = bank_of(np.random.default_rng(5).normal(size=(4, 6)), np.array([1.0, 0.2, 0.0, 3.0]), 0.3)
    batch = ChoiceBatch.of(people)
    fit, own = fit_weights_batch(batch, bank), fit_direction_batch(batch, bank.shared, 0.7, 0.3)
    for row, choices in enumerate(people):
        alone = fit_weights(choices, bank)
        assert np.allclose(fit.weights[row], alone.weights, atol=1e-8)
        assert np.allclose(fit.covariance[row], alone.covariance, atol=1e-8)
        assert np.allclose(own[row], fit_direction(choices, bank.shared, 0.7, 0.3), atol=1e-8)


@pytest.mark.parametrize("count", [3, 50])  # fewer choices than features, and more
def test_a_direction_of_ones_own_is_a_bank_of_every_feature(count: int) -> None:
    choices, shared = person(count, seed=9), np.linspace(-1, 1, 6)
    every = Bank("reward", SPACE, shared, np.eye(6), np.full(6, 0.8), np.zeros((0, 6)), 0.2)
    own = fit_direction(choices, shared, 0.8, 0.2)
    assert np.allclose(own, every.mix(fit_weights(choices, every).weights), atol=1e-8)
    assert np.array_equal(fit_direction(Choices(np.zeros((0, 6)), np.zeros(0)), shared, 0.8), shared)


def test_wrong_choices_are_refused() -> None:
    for differences, outcomes in [
        (np.zeros((2, 3)), np.zeros(3)),
        (np.zeros((2, 3)), np.array([0.0, 0.7])),
        (np.full((2, 3), np.inf), np.zeros(2)),
        (np.zeros(3), np.zeros(3)),
    ]:
        with pytest.raises(ProtocolError):
            Choices(differences, outcomes)
    with pytest.raises(ProtocolError, match="6 features"):
        fit_weights(person(4), Bank.of_shared("reward", SPACE, np.ones(5)))
