"""Structure or noise: the edges and what they say, against matrices drawn at random."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from protocol.errors import PenchantError
from server.spectrum import (
    forecast_bases,
    largest_noise_value,
    reliability,
    signal_values,
    smallest_signal,
)

ROWS, COLUMNS, DEVIATION = 12, 300, 0.5


def noise(seed: int, rows: int = ROWS, columns: int = COLUMNS) -> NDArray[np.float64]:
    return DEVIATION * np.random.default_rng(seed).normal(size=(rows, columns))


@pytest.mark.parametrize(("rows", "columns"), [(6, 32), (12, 300), (300, 12), (80, 80), (5, 900)])
def test_pure_noise_exceeds_the_floor_about_once_in_a_hundred(rows: int, columns: int) -> None:
    floor = largest_noise_value(DEVIATION, rows, columns)
    largest = [np.linalg.svd(noise(seed, rows, columns), compute_uv=False)[0] for seed in range(200)]
    assert sum(value > floor for value in largest) <= 7
    assert np.median(largest) > 0.8 * floor  # and it is no higher than it must be


def test_signal_values_and_reliability_are_those_of_planted_directions() -> None:
    left = np.linalg.qr(np.random.default_rng(0).normal(size=(ROWS, 2)))[0]
    right = np.linalg.qr(np.random.default_rng(1).normal(size=(COLUMNS, 2)))[0]
    observed, cosines = [], []
    for seed in range(100):
        _, values, rows = np.linalg.svd(left @ np.diag([25.0, 12.0]) @ right.T + noise(seed), full_matrices=False)
        observed.append(values[:2])
        cosines.append([float(rows[k] @ right[:, k]) ** 2 for k in range(2)])
    mean = np.mean(observed, axis=0).tolist()
    np.testing.assert_allclose(signal_values(mean, DEVIATION, ROWS, COLUMNS), [25.0, 12.0], rtol=0.03)
    np.testing.assert_allclose(reliability(mean, DEVIATION, ROWS, COLUMNS), np.mean(cosines, axis=0), atol=0.04)


def test_what_noise_alone_could_be_is_not_relied_on() -> None:
    floor = largest_noise_value(DEVIATION, ROWS, COLUMNS)
    kept = reliability([3 * floor, 1.01 * floor, 0.99 * floor, 0.0], DEVIATION, ROWS, COLUMNS)
    assert kept[0] > 0.8 and 0.2 < kept[1] < 0.6 and kept[2] == kept[3] == 0.0
    smallest = smallest_signal(DEVIATION, ROWS, COLUMNS)
    assert smallest > DEVIATION * (ROWS * COLUMNS) ** 0.25  # above the edge at which it leaves a trace at all


def test_without_noise_every_value_is_what_it_is() -> None:
    np.testing.assert_array_equal(signal_values([2.0, 0.1, 0.0], 0.0, ROWS, COLUMNS), [2.0, 0.1, 0.0])
    np.testing.assert_array_equal(reliability([2.0, 0.1, 0.0], 0.0, ROWS, COLUMNS), [1.0, 1.0, 0.0])
    assert largest_noise_value(0.0, ROWS, COLUMNS) == 0.0


def test_a_forecast_says_what_a_direction_must_hold_to_be_seen() -> None:
    """Populations in which one direction holds a share just above or below it, through one noisy sum."""
    people, z, dimension, rows = 200, 2.0, 64, 6
    share = forecast_bases(people, z, dimension, rows).smallest_share
    random, seen = np.random.default_rng(5), []
    row = np.linalg.qr(random.normal(size=(dimension, rows)))[0].T
    deviation = z / people / math.sqrt(0.9)
    for factor in (0.6, 1.6):
        signs = random.choice([-1.0, 1.0], size=people)
        delta = math.sqrt(factor * share) * signs[:, None] * row[0]
        rest = random.normal(size=(people, rows - 1)) @ row[1:]
        delta += math.sqrt(1 - factor * share) * rest / np.linalg.norm(rest, axis=1, keepdims=True)
        weights = delta @ row.T
        mean = (weights / np.linalg.norm(weights, axis=1, keepdims=True)).T @ delta / people
        value = float(np.linalg.norm(mean[0]))
        seen.append(value / smallest_signal(deviation, rows, dimension))
    assert seen[0] == pytest.approx(0.6, rel=0.15) and seen[1] == pytest.approx(1.6, rel=0.15)


def test_more_people_less_noise_and_more_sums_show_more() -> None:
    base = forecast_bases(200, 1.0, 128, 8)
    for better in (
        forecast_bases(800, 1.0, 128, 8),
        forecast_bases(200, 0.5, 128, 8),
        forecast_bases(200, 1.0, 32, 8),
        forecast_bases(200, 1.0, 128, 8, sums=3),
    ):
        assert better.smallest_share < base.smallest_share and better.count >= base.count
    assert forecast_bases(200, 0.0, 128, 8).count == 8
    assert forecast_bases(8, 10.0, 3584, 8).count == 0
    assert forecast_bases(10**6, 1.0, 4, 8).count == 4  # never more than there are numbers
    with pytest.raises(PenchantError, match="a forecast needs"):
        forecast_bases(200, 1.0, 128, 8, captured=0.0)


def test_the_smaller_the_clip_the_larger_a_directions_share() -> None:
    """Why the clip norm is a low quantile: its share of C^2 can only grow as C shrinks."""
    random = np.random.default_rng(6)
    deltas = random.normal(size=(400, 16)) * random.lognormal(size=(400, 1))
    norms = np.linalg.norm(deltas, axis=1)
    shares = []
    for clip in np.quantile(norms, [1.0, 0.75, 0.5, 0.25, 0.0]):
        clipped = deltas * np.minimum(1.0, clip / norms)[:, None]
        shares.append(float(np.mean(clipped[:, 0] ** 2) / clip**2))
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1 / 16, rel=0.2)
