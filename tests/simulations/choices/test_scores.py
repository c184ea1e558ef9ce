"""Accuracy, nll, bootstrap."""

import numpy as np
import pytest

from protocol.reward_model import Choices
from simulations.choices.scores import Scores, bootstrap_interval, decided_accuracy, mean_scores, score


def test_accuracy_counts_decided_choices_and_a_guess_as_half() -> None:
    rewards = np.array([2.0, -1.0, 3.0, 0.0, 5.0])
    outcomes = np.array([1.0, 0.0, 0.0, 1.0, 0.5])
    assert decided_accuracy(rewards, outcomes) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert np.isnan(decided_accuracy(rewards[:1], np.array([0.5])))


def test_a_zero_taste_has_accuracy_half_and_the_nll_of_a_coin() -> None:
    held_out = [Choices(np.ones((4, 2)), np.array([1.0, 0.0, 1.0, 1.0]))]
    scores = score(np.zeros((1, 2)), held_out, 0.0)
    assert scores.accuracy[0] == 0.5 and scores.nll[0] == pytest.approx(np.log(2))


def test_the_interval_covers_the_mean_and_leaves_out_who_has_no_value() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        values = np.append(random.exponential(size=40), np.nan)
        mean, low, high = bootstrap_interval(values, seed=trial)
        assert mean == pytest.approx(np.nanmean(values)) and low < mean < high
        covered += low <= 1.0 <= high
    assert 85 <= covered <= 99


def test_one_person_has_no_interval() -> None:
    assert bootstrap_interval(np.array([0.3, np.nan])) == (0.3, float("-inf"), float("inf"))


def test_several_runs_are_averaged_per_person() -> None:
    one, two = Scores(np.array([0.0, 1.0]), np.array([1.0, 2.0])), Scores(np.array([1.0, 1.0]), np.array([3.0, 2.0]))
    both = mean_scores([one, two])
    np.testing.assert_array_equal(both.accuracy, [0.5, 1.0])
    np.testing.assert_array_equal(both.nll, [2.0, 2.0])
