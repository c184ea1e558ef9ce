from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from protocol.errors import PenchantError
from protocol.reward_model import ChoiceBatch
from server.centroids import CentroidPlan
from simulations.choices.reward_fleet import identity_map
from simulations.studies.placement.fleet import DrawnCentroids, draw_centroids
from tests.protocol.clustered_people import FEATURES, clustered_people

MAP = identity_map(FEATURES)
FLEET = clustered_people(500, 24, seed=6)
BANK = replace(FLEET.bank, space_sha256=MAP.digest)


def drawn(epsilon: float | None, people: ChoiceBatch = FLEET.people, seed: int = 0) -> DrawnCentroids:
    plan = CentroidPlan(centroid_count=6, rounds=4)
    return draw_centroids(people, BANK, MAP, plan, epsilon=epsilon, delta=1e-3, seed=seed)


def farthest(found: DrawnCentroids) -> float:
    """From a true centroid to the nearest drawn one, in units of the bank's spread."""
    apart = (FLEET.prior.centroids[:, None] - found.prior.centroids) / BANK.spread
    return float(np.linalg.norm(apart, axis=2).min(1).max())


@pytest.mark.parametrize("epsilon", [None, 8.0, 2.0])
def test_the_kinds_are_found_within_the_epsilon_that_was_asked_for(epsilon: float | None) -> None:
    found = drawn(epsilon)
    assert farthest(found) < 1.2
    assert np.array_equal(found.bank.centroids, found.prior.centroids)
    if epsilon is None:
        assert found.epsilon == float("inf") and found.noise_multiplier == 0.0
    else:
        assert 0.98 * epsilon < found.epsilon <= epsilon


def test_too_much_noise_leaves_no_kind_at_all() -> None:
    few = ChoiceBatch(FLEET.people.differences[:30], FLEET.people.outcomes[:30], FLEET.people.present[:30])
    assert not len(drawn(0.5, few).prior.centroids)


def test_the_seed_draws_the_noise() -> None:
    assert drawn(8.0, seed=1).prior.digest == drawn(8.0, seed=1).prior.digest != drawn(8.0, seed=2).prior.digest


def test_a_bank_without_directions_is_refused() -> None:
    bare = replace(BANK, directions=np.zeros((0, FEATURES)), spread=np.zeros(0), centroids=np.zeros((0, 0)))
    with pytest.raises(PenchantError, match="without directions"):
        draw_centroids(FLEET.people, bare, MAP, CentroidPlan())
