from __future__ import annotations

import numpy as np
import pytest

from protocol.round_plan import RoundPlan
from simulations.attacks.poisoning import POISONS, Poison, poisoned_mean, unclipped_reach
from tests.simulations.attacks.test_people import PEOPLE, round_task

RANDOM = np.random.default_rng(0)
UPDATES = 0.4 * np.array([1.0] + 9 * [0.0]) + 0.05 * RANDOM.normal(size=(24, 10))
BACKDOOR = np.eye(10)[3]


@pytest.mark.parametrize("poisoners", [1, 3])
@pytest.mark.parametrize("kind", POISONS)
def test_clipping_bounds_every_poisoner_by_its_share(kind: Poison, poisoners: int) -> None:
    found = poisoned_mean(UPDATES, 0.6, poisoners, kind, BACKDOOR)
    assert found.limit == pytest.approx(poisoners * 0.6 / 24)
    assert found.influence <= found.limit * (1 + 1e-9)
    assert found.raw_influence > 0.3 * 24 / poisoners * found.limit


def test_what_is_left_of_the_honest_mean() -> None:
    flipped = poisoned_mean(UPDATES, 0.6, 3, "sign-flipped", BACKDOOR)
    assert flipped.raw_kept < 0.0  # a mean without clip is reversed by three people of twenty-four
    assert 0.6 < flipped.kept < 1.0
    assert poisoned_mean(UPDATES, 0.6, 1, "scaled", BACKDOOR).kept > 1.0
    assert poisoned_mean(UPDATES, 0.6, 3, "backdoor", BACKDOOR).clipped[3] == pytest.approx(
        3 * 0.6 / 24 + UPDATES[3:, 3].sum() / 24
    )


def test_a_changed_app_reaches_as_far_as_the_ring() -> None:
    """Behind the mask nothing is clipped: the reach is measured in the round's own arithmetic."""
    task = round_task()
    plan = RoundPlan.of(task)
    extreme = np.zeros(plan.layout.dimension, dtype=np.uint32)
    extreme[: task.update_dimension] = 1 << (task.ring_bits - 1)
    shift = np.linalg.norm(plan.layout.unpack(plan.codec.decode(extreme), PEOPLE, task.clip_norm).update)
    unit = task.clip_norm / PEOPLE
    assert 0.5 * unclipped_reach(task) < shift / unit <= unclipped_reach(task) * 1.05
    assert unclipped_reach(task) > 10
