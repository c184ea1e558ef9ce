"""A person's part of a blind sum: bounded by the clip norm whatever the rows are and however many there are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from protocol.errors import ProtocolError
from protocol.subspace_sketch import sketch_contribution, sketch_weights

DIMENSION, CLIP = 24, 0.7


def orthonormal(count: int, seed: int = 0) -> NDArray[np.float64]:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(DIMENSION, count)))[0].T


def worst_cases() -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """(rows, residual): rows that a hostile server might choose, residuals that a hostile text might train."""
    random = np.random.default_rng(1)
    residual = random.normal(size=DIMENSION)
    along = residual / np.linalg.norm(residual)
    return [
        (orthonormal(count), size * residual) for count in (1, 4, DIMENSION) for size in (0.0, 1e-300, 1e-3, 1.0, 1e200)
    ] + [
        (np.tile(along, (500, 1)), residual),  # not orthonormal: 500 times the same question
        (1e6 * orthonormal(8), residual),
        (random.normal(size=(2000, DIMENSION)), 1e3 * residual),
        (orthonormal(3), np.full(DIMENSION, np.nan)),
    ]


@pytest.mark.parametrize("noisy", [False, True])
def test_a_contribution_is_bounded_by_the_clip_norm_whatever_the_rows_are(noisy: bool) -> None:
    for rows, residual in worst_cases():
        made = sketch_contribution(rows, residual, CLIP, noisy=noisy)
        assert np.isfinite(made).all() and np.linalg.norm(made) <= CLIP * (1 + 1e-12)
    full = sketch_contribution(orthonormal(DIMENSION), 9 * orthonormal(1)[0], CLIP, noisy=noisy)
    assert np.linalg.norm(full) == pytest.approx(CLIP)  # the bound is met, so no smaller noise would do


@pytest.mark.parametrize("faulty", ["each weight bounded", "weights left alone", "residual left alone"])
def test_with_any_other_bound_on_the_two_factors_the_sum_would_be_more_sensitive(faulty: str) -> None:
    """The same check finds each of the mistakes that look harmless."""

    def contribution(rows: NDArray[np.float64], residual: NDArray[np.float64]) -> NDArray[np.float64]:
        delta = residual if faulty == "residual left alone" else residual * min(1.0, CLIP / np.linalg.norm(residual))
        weights = rows @ delta
        if faulty == "each weight bounded":
            weights = np.clip(weights / 1e-3, -1.0, 1.0)
        elif faulty == "residual left alone":
            weights = weights / np.linalg.norm(weights)
        return np.outer(weights, delta).ravel()

    cases = [(rows, residual) for rows, residual in worst_cases() if 1e-9 < np.abs(residual).max() < 1e9]
    assert max(np.linalg.norm(contribution(rows, residual)) for rows, residual in cases) > 1.5 * CLIP


def test_without_noise_the_sum_is_the_exact_step_of_subspace_iteration() -> None:
    rows, people = orthonormal(4), np.random.default_rng(2).normal(size=(30, DIMENSION)) * 0.1
    assert np.linalg.norm(people, axis=1).max() < CLIP
    total = sum(sketch_contribution(rows, person, CLIP, noisy=False) for person in people)
    np.testing.assert_allclose(np.reshape(total, rows.shape), rows @ people.T @ people / CLIP, atol=1e-12)


def test_with_noise_everybody_speaks_as_loudly_as_the_bound_allows() -> None:
    rows, random = orthonormal(4), np.random.default_rng(3)
    for size in (1e-6, 0.1, 50.0):
        person = size * random.normal(size=DIMENSION)
        made = sketch_contribution(rows, person, CLIP, noisy=True)
        assert np.linalg.norm(made) == pytest.approx(min(CLIP, float(np.linalg.norm(person))))
        direction = np.linalg.svd(made.reshape(rows.shape))[2][0]
        assert abs(direction @ person) == pytest.approx(np.linalg.norm(person))  # rank one, along the residual
    nobody = sketch_weights(rows, np.zeros(DIMENSION), CLIP, noisy=True)
    np.testing.assert_array_equal(nobody, np.zeros(4))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ProtocolError, match="does not fit rows"):
        sketch_contribution(orthonormal(2), np.zeros(DIMENSION - 1), CLIP, noisy=True)
