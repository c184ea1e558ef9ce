from __future__ import annotations

import hashlib
from typing import Any

import pytest

from protocol.errors import PenchantError
from server.planning import default_minimum_survivors, stages_survived, task_from_plan

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
