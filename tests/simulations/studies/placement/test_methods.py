from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from protocol.reward_model import Choices
from simulations.choices.data import Judge
from simulations.studies.placement.fleet import DrawnCentroids
from simulations.studies.placement.methods import (
    DEFAULTS,
    WITH_CENTROIDS,
    WITHOUT_CENTROIDS,
    Settings,
    candidates,
    controversial,
    predict,
    tune,
)
from tests.protocol.clustered_people import clustered_people

FLEET = clustered_people(120, 44, seed=8)
DRAWN = DrawnCentroids(FLEET.bank, FLEET.prior, float("inf"), 0.0)
PEOPLE = [
    Judge(f"p{number}", "newcomer", Choices(x[:16], y[:16]), Choices(x[16:], y[16:]))
    for number, (x, y) in enumerate(zip(FLEET.people.differences, FLEET.people.outcomes, strict=True))
]


def accuracy(arm: str, count: int, drawn: DrawnCentroids | None = DRAWN, settings: Settings = DEFAULTS) -> float:
    return float(np.nanmean(predict(arm, PEOPLE, count, FLEET.bank, drawn, settings).scores(PEOPLE).accuracy))


@pytest.mark.parametrize("arm", [*WITH_CENTROIDS, "map"])
def test_every_arm_learns_from_choices(arm: str) -> None:
    assert accuracy(arm, 8, settings=candidates(arm)[0]) > accuracy("global", 8) + 0.05


@pytest.mark.parametrize("arm", [*WITHOUT_CENTROIDS, "place"])
def test_without_choices_they_are_the_shared_taste(arm: str) -> None:
    assert accuracy(arm, 0) == accuracy("global", 0)


def test_where_there_are_kinds_few_choices_place_better_than_a_fit_around_everybody() -> None:
    assert accuracy("code", 4) > accuracy("map", 4)


@pytest.mark.parametrize("arm", WITH_CENTROIDS)
def test_where_every_kind_was_dropped_the_plain_fit_remains(arm: str) -> None:
    nobody = replace(FLEET.prior, centroids=FLEET.prior.centroids[:0], shares=FLEET.prior.shares[:0])
    none = DrawnCentroids(FLEET.bank.with_centroids(nobody.centroids), nobody, 2.0, 9.0)
    assert accuracy(arm, 8, none) == accuracy("map", 8, None)


@pytest.mark.parametrize(("arm", "tried"), [("place", 9), ("gate", 9), ("code", 1)])
def test_tuning_takes_the_settings_with_the_least_nll(arm: str, tried: int) -> None:
    losses = {
        one: np.mean([predict(arm, PEOPLE, n, FLEET.bank, DRAWN, one).scores(PEOPLE).nll.mean() for n in (4, 8)])
        for one in candidates(arm)
    }
    loss, settings = tune(arm, PEOPLE, (4, 8), FLEET.bank, DRAWN)
    assert len(losses) == tried
    assert loss == pytest.approx(min(losses.values())) and losses[settings] == min(losses.values())


def test_choices_that_the_kinds_disagree_about_are_where_personal_rewards_matter() -> None:
    which = controversial(PEOPLE, DRAWN)
    assert 0.2 < np.mean(np.concatenate(which)) < 1.0
    parts = [which, [~one for one in which]]
    gains = [
        np.nanmean(
            predict("code", PEOPLE, 8, FLEET.bank, DRAWN).accuracy_where(PEOPLE, part)
            - predict("global", PEOPLE, 8, FLEET.bank).accuracy_where(PEOPLE, part)
        )
        for part in parts
    ]
    assert gains[0] > gains[1] + 0.1
