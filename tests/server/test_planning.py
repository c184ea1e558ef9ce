from __future__ import annotations

import hashlib
import random
from itertools import pairwise
from typing import Any

import pytest

from protocol.errors import PenchantError
from server.planning import default_minimum_survivors, draw_cohort, stages_survived, task_from_plan

PLAN = {
    "kind": "bases", "dimension": 64, "basis_count": 4, "clip_norm": 2.0, "base_sha256": "0" * 64,
    "artefacts": {}, "settings": {"rate": 0.1},
}  # fmt: skip


def plan(changes: dict[str, Any] | None = None, **fleet: Any):
    values: dict[str, Any] = {
        "run_id": "r", "round": 0, "attempt": 0, "cohort_size": 26, "minimum_survivors": 0,
        "dropout_fraction": 1 / 3, "noise_multiplier": 0.7, "delta": 1e-5, "ring_bits": 16,
        "artefacts": {"frame": hashlib.sha256(b"f").hexdigest()}, **fleet,
    }  # fmt: skip
    return task_from_plan({**PLAN, **(changes or {})}, **values)


def test_the_task_says_what_the_plan_and_the_fleet_say() -> None:
    task = plan()
    assert (task.update_dimension, task.noise_multiplier, task.minimum_survivors) == (256, 0.7, 18)
    assert plan({"noise_multiplier": 2.0}).noise_multiplier == 2.0
    assert task.rotation_seed != plan().rotation_seed and task.graph_seed != plan().graph_seed


def test_the_threshold_leaves_room_for_the_planned_losses() -> None:
    assert default_minimum_survivors(26, 1 / 3) == 18
    assert [stages_survived(27, smallest, 1 / 3) for smallest in (27, 18, 12, 8, 2)] == [0, 1, 2, 3, 3]
    one, three = plan(cohort_size=27), plan(cohort_size=27, minimum_survivors=8)
    assert one.graph_threshold <= 18 - 6 - 1 and three.graph_threshold < one.graph_threshold


@pytest.mark.parametrize(
    ("changes", "fleet", "message"),
    [
        ({"learning_rate": 1}, {}, "unknown keys"),
        ({}, {"minimum_survivors": 40}, "the cohort has 26"),
        ({}, {"minimum_survivors": 1}, "choose 2 to 26"),
    ],
)
def test_an_impossible_plan_is_refused(changes: dict[str, Any], fleet: dict[str, Any], message: str) -> None:
    with pytest.raises(PenchantError, match=message):
        plan(changes, **fleet)


def test_nobody_starts_sooner_than_the_spacing() -> None:
    """Ten rounds of a small fleet: starts are spaced, participations go on, and too few raises."""
    people, starts = [f"{number:02x}" for number in range(12)], dict[str, int]()
    draw, all_starts = random.Random(0), dict[str, list[int]]()
    for number in range(10):
        cohort = draw_cohort(people, starts, draw, round=number, size=3, spacing=4, bands=2)
        fresh = [person for person in cohort if number - starts.get(person, -99) >= 4]
        going_on = [person for person in cohort if person not in fresh]
        assert len(fresh) == 3 and all(number - starts[person] == 1 for person in going_on)
        assert len(going_on) == (3 if number else 0) and cohort == sorted(cohort)
        for person in fresh:
            starts[person] = number
            all_starts.setdefault(person, []).append(number)
    assert all(b - a >= 4 for rounds in all_starts.values() for a, b in pairwise(rounds))
    with pytest.raises(PenchantError, match="may start in round 10"):
        draw_cohort(people, starts, draw, round=10, size=5, spacing=4, bands=2)
    # without a spacing everybody may, and another attempt at a round may ask the same people
    assert len(draw_cohort(people, dict.fromkeys(people, 10), draw, round=10, size=12)) == 12


def test_mechanism_spacing_and_strategy_reach_the_task() -> None:
    task = plan(mechanism="discrete_gaussian", spacing=3, strategy=(1.0, 0.5))
    assert (task.mechanism, task.spacing, task.strategy) == ("discrete_gaussian", 3, (1.0, 0.5))
    assert (plan().mechanism, plan().spacing, plan().strategy) == ("skellam", 1, (1.0,))
