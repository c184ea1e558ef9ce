from __future__ import annotations

import numpy as np
import pytest

from simulations.strategies.private_mean import private_mean

PEOPLE, LENGTH = 8, 400


def vectors(norm: float) -> list[tuple[np.ndarray, float]]:
    rows = np.random.default_rng(0).normal(size=(PEOPLE, LENGTH))
    return [(norm * row / np.linalg.norm(row), 2.0) for row in rows]


def test_without_noise_it_is_the_mean_of_the_clipped() -> None:
    rows = vectors(3.0)
    mean = np.mean([row for row, _ in rows], axis=0)
    whole = private_mean(rows, clip_norm=4.0, noise_multiplier=0.0, round=0, seed=0)
    assert np.abs(whole.mean_update - mean).max() < 1e-3 and whole.noise_deviation == 0.0
    clipped = private_mean(rows, clip_norm=1.0, noise_multiplier=0.0, round=0, seed=0)
    assert np.abs(clipped.mean_update - mean / 3.0).max() < 1e-3
    assert (round(whole.fraction_not_clipped), round(clipped.fraction_not_clipped)) == (1, 0)


def test_the_noise_is_what_the_multiplier_says() -> None:
    rows = vectors(0.5)
    mean = np.mean([row for row, _ in rows], axis=0)
    noisy = private_mean(rows, clip_norm=1.0, noise_multiplier=0.5, round=0, seed=0)
    deviation = float((noisy.mean_update - mean).std())
    # z times the joint vector's norm (C / sqrt(0.9) and some rounding) over the number of people
    assert deviation == pytest.approx(0.5 / np.sqrt(0.9) / PEOPLE, rel=0.15)
    assert noisy.noise_deviation == pytest.approx(deviation, rel=0.15)


def test_seed_and_round_name_the_noise() -> None:
    def mean(round: int, seed: int) -> np.ndarray:
        return private_mean(vectors(1.0), clip_norm=1.0, noise_multiplier=1.0, round=round, seed=seed).mean_update

    assert np.array_equal(mean(0, 0), mean(0, 0))
    assert not np.array_equal(mean(0, 0), mean(1, 0)) and not np.array_equal(mean(0, 0), mean(0, 1))
