"""LoRe as published: its gradients, its simplex, and that it finds two kinds of people."""

import numpy as np

from protocol.reward_model import Choices
from simulations.choices.softmax_lore import (
    DecidedChoices,
    fit_softmax_weights,
    softmax,
    softmax_tastes,
    train_softmax_lore,
)
from tests.simulations.choices.choice_help import known_choices


def test_ties_are_left_out_and_the_chosen_comes_first() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    data = DecidedChoices.of([Choices(rows, np.array([1.0, 0.0, 0.5])), Choices(rows[:0], np.zeros(0))])
    np.testing.assert_array_equal(data.won, [[1.0, 0.0], [0.0, -1.0]])
    np.testing.assert_array_equal(data.person, [0, 0])
    np.testing.assert_array_equal(data.weight, [0.5, 0.5])
    np.testing.assert_array_equal(data.sums(np.array([3.0, 4.0])), [7.0, 0.0])


def test_it_learns_what_two_opposite_kinds_of_people_want() -> None:
    tastes = [3.0 * np.array([1.0, 0, 0]), 3.0 * np.array([-1.0, 0, 0])]
    people = [known_choices(tastes[number % 2], 40, number) for number in range(40)]
    directions = train_softmax_lore(people, bases=2, steps=300, seed=0)
    assert directions.shape == (3, 2)
    new = [known_choices(tastes[number % 2], 12, 100 + number) for number in range(10)]
    shares = fit_softmax_weights(new, directions)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert shares.min() >= 0
    found = softmax_tastes(shares, directions)
    assert all(np.sign(taste[0]) == np.sign(tastes[number % 2][0]) for number, taste in enumerate(found))


def test_no_choices_give_uniform_weights() -> None:
    empty = Choices(np.zeros((0, 3)), np.zeros(0))
    np.testing.assert_allclose(fit_softmax_weights([empty], np.ones((3, 4))), 0.25)


def test_training_lowers_the_published_loss() -> None:
    people = [known_choices(np.array([2.0, -1.0]), 30, number) for number in range(5)]
    data = DecidedChoices.of(people)
    losses = []

    def watch(step: int, directions: np.ndarray, shares: np.ndarray) -> None:
        rewards = np.einsum("mk,mk->m", data.won, softmax_tastes(shares, directions)[data.person])
        losses.append(float((data.weight * np.logaddexp(0.0, -rewards)).sum()))

    train_softmax_lore(people, bases=3, steps=100, seed=0, on_step=watch)
    assert len(losses) == 100 and losses[-1] < 0.9 * losses[0]


def test_softmax_does_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0]])), [[1.0, 0.0]])
