"""Neighbours in a document, and what spreads to them."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.memory.windows import DECAY, REACH, neighbours, spread


def brute_force(values: np.ndarray, documents: np.ndarray, positions: np.ndarray) -> np.ndarray:
    result = values.copy()
    for document in set(documents.tolist()) - {0}:
        rows = [row for row in np.argsort(positions, kind="stable") if documents[row] == document]
        for place, row in enumerate(rows):
            for other_place, other in enumerate(rows):
                if 0 < abs(place - other_place) <= REACH:
                    result[row] = max(result[row], values[other] * DECAY ** abs(place - other_place))
    return result


@pytest.mark.parametrize("seed", range(20))
def test_spreading_agrees_with_the_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 30))
    documents, positions = random.integers(0, 4, n), random.permutation(n)
    values = (random.random(n) * (random.random(n) < 0.4)).astype(np.float32)
    spread_values = spread(values, neighbours(documents, positions))
    assert spread_values == pytest.approx(brute_force(values, documents, positions), abs=1e-6)


def test_nothing_crosses_documents_and_rows_without_one_stay_alone() -> None:
    documents, positions = np.array([1, 1, 2, 0, 0]), np.array([0, 1, 2, 3, 4])
    values = np.array([0, 1, 0, 1, 0], np.float32)
    assert spread(values, neighbours(documents, positions)).tolist() == pytest.approx([DECAY, 1, 0, 1, 0])


def test_a_gap_does_not_separate() -> None:
    around = neighbours(np.array([1, 1, 1]), np.array([0, 40, 7]))
    assert around[0].tolist() == [2, -1, 1] and around[REACH].tolist() == [-1, 2, 0]
