"""The interval of a mean over people, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulations.statistics import mean_interval


def test_students_t_interval_by_hand() -> None:
    # Mean 3, standard deviation 2 over 4 people: half width t(0.975, 3) * 2 / sqrt(4) = 3.182446.
    values = [3 - math.sqrt(6), 3 + math.sqrt(6), 3.0, 3.0]
    mean, low, high = mean_interval(values)
    assert mean == pytest.approx(3.0)
    assert [mean - low, high - mean] == pytest.approx([3.182446, 3.182446], abs=1e-6)


def test_the_confidence_is_two_sided() -> None:
    mean, _, high = mean_interval([0.0, 1.0], confidence=0.5)
    assert high - mean == pytest.approx(0.5)  # t(0.75, 1) = 1, standard error 0.5


def test_equal_people_leave_no_doubt_and_one_person_leaves_all() -> None:
    assert mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)
    assert mean_interval([2.0]) == (2.0, -math.inf, math.inf)


def test_it_covers_the_true_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(size=(2000, 6))
    hits = sum(low <= 0.0 <= high for _, low, high in map(mean_interval, draws.tolist()))
    assert 0.935 < hits / len(draws) < 0.965
