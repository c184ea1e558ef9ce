from __future__ import annotations

import numpy as np
import pytest

from simulations.attacks.reward_people import CHOICES, FEATURES, RANK, ShadowFleets, shadow_fleets
from simulations.choices.reward_recovery import taste_population


def test_a_small_fleet_without_noise_gives_its_members_away_and_noise_hides_them() -> None:
    people = taste_population(people=24, features=FEATURES, rank=RANK, choices=CHOICES, seed=3).train
    bare, hidden = shadow_fleets(people, 8, None, 0), shadow_fleets(people, 8, 0.5, 0)
    assert bare.inside.sum(1).tolist() == [12] * 8 and bare.inside.sum(0).tolist() == [4] * 24
    assert bare.measured("reference").value > 0.62 and bare.measured("lira").value > 0.6
    for kind in ("loss", "reference", "lira"):
        assert hidden.measured(kind).surely < 0.62


def test_scores_compare_a_person_with_themselves_in_other_fleets() -> None:
    random = np.random.default_rng(0)
    inside = random.random((12, 30)) < 0.5
    nll = random.normal(size=30) - 0.2 * inside + 0.05 * random.normal(size=inside.shape)
    found = ShadowFleets(nll, inside)
    assert found.measured("loss").value < 0.7
    assert found.measured("reference").value > 0.95 and found.measured("lira").value > 0.95
    assert found.measured("lira").trials == 360
    assert found.scores("loss") == pytest.approx(-nll)
