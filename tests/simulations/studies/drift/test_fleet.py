"""People who change: what is stale, and that ways which forget are less wrong after the change than the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from protocol.bank import Bank
from simulations.choices.reward_fleet import identity_map
from simulations.choices.tastes import SCORERS
from simulations.studies.drift.fleet import METHODS, DriftRecipe, World, directions, draw_drifter, error, follow
from simulations.studies.drift.memory import CHANGE, SESSIONS, TOPICS, UNCHANGED, draw_life, errors_of
from simulations.studies.drift.study import facts_summary, table, taste_summary
from tests.edge_runtime.memory_helpers import HashingEmbedder

COUNT = len(SCORERS)
RECIPE = DriftRecipe(people=8, choices=120, change=60, step=10, learnt=40, bases=COUNT)


@pytest.fixture(scope="module")
def world() -> World:
    """Features are the scores themselves, so that weights on the axes can hold every taste."""
    random = np.random.default_rng(0)
    scores = random.normal(size=(300, COUNT))
    texts = ([np.arange(0, 200)], [np.arange(200, 300)])
    bank = Bank(
        "reward", identity_map(COUNT).digest, np.zeros(COUNT), np.eye(COUNT), np.ones(COUNT), np.zeros((0, COUNT)), 0.25
    )
    people = [draw_drifter(scores, scores, texts, RECIPE, np.random.default_rng([1, n])) for n in range(RECIPE.people)]
    return World(bank, tuple(people))


def test_disputed_pairs_are_turned_so_that_the_old_taste_prefers_the_first() -> None:
    disputed = np.array([[1.0, 0.0], [2.0, -1.0]])
    old, new = np.array([1.0, 0.0]), np.array([-1.0, 0.0])
    assert error(disputed, old, changed=False) == 0.0 and error(disputed, old, changed=True) == 1.0
    assert error(disputed, new, changed=True) == 0.0 and error(disputed, np.zeros(2), changed=True) == 0.5


def test_forgetting_follows_the_change_and_freezing_does_not(world: World) -> None:
    followed = follow(world, RECIPE)
    errors = {method: np.nanmean(values, axis=0) for method, values in followed.items()}
    assert set(errors) == set(METHODS) and all(len(values) == 12 for values in errors.values())
    known = errors["frozen"][5]
    assert known < 0.25 and errors["frozen"][6] == pytest.approx(1.0 - known)
    assert errors["window 20"][-1] < 0.35 < errors["all"][-1] < errors["frozen"][-1]
    assert errors["carry 0.3"][-1] < errors["carry 0.1"][-1]
    assert errors["none"][0] == 0.5  # this bank's shared taste is nothing
    assert 0.3 < errors["stranger"][:6].mean() < 0.7
    report = taste_summary(followed, RECIPE)
    assert set(report["chosen"]) == {"window", "carry"} and report["people"] <= 4
    assert report["methods"]["frozen"]["parts"]["at the end"][0] > 0.7


def test_windows_see_the_latest_choices_only(world: World) -> None:
    choices = world.people[0].choices
    other = replace(choices, outcomes=np.concatenate([1.0 - choices.outcomes[:100], choices.outcomes[100:]]))
    for method, same in (("window 20", True), ("all", False), ("frozen", False)):
        one, two = (directions(each, world.bank, method, RECIPE)[120] for each in (choices, other))
        assert np.allclose(one, two) == same


def test_a_life_changes_all_at_once_and_is_told_bit_by_bit() -> None:
    plain, free = (draw_life(3, freely=freely) for freely in (False, True))
    assert (plain.before, plain.after) == (free.before, free.after)
    assert sum(was == now for was, now in zip(plain.before, plain.after, strict=True)) == UNCHANGED
    assert [len(told) for told in plain.sessions] == [2, 2, 2, 2, 0, 1, 1, 1, 1, 1, 1, 0]
    assert plain.sessions[:CHANGE] == free.sessions[:CHANGE] and plain.sessions[CHANGE] != free.sessions[CHANGE]
    assert all(plain.after[topic] in text for told in plain.sessions[CHANGE:] for topic, text in told)


def test_a_memory_that_closes_what_is_contradicted_ends_without_a_stale_answer() -> None:
    life = draw_life(0, freely=False)
    found = errors_of(life, HashingEmbedder())
    changed = (len(TOPICS) - UNCHANGED) / len(TOPICS)
    assert found["no update"][-1] == (changed, changed)
    assert found["profile"][-1] == (0.0, 0.0) and found["memory"][-1][1] == 0.0
    assert found["memory"][CHANGE][1] > found["memory"][-1][1]
    assert all(len(sessions) == SESSIONS for sessions in found.values())
    assert found["profile"][CHANGE - 1] == (0.0, 0.0)
    shown = table(
        taste_summary({method: np.full((4, 22), 0.25) for method in METHODS}, DriftRecipe()),
        {"plainly": facts_summary([found, found])},
        DriftRecipe(),
    )
    assert "| frozen | 25.0 [25.0, 25.0]" in shown and "| no update, plainly |" in shown
