"""The fleet's user projection on the server: rounds, shrinkage part by part, replay."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan, plan_task
from protocol.user_projection import ProjectionFrame, UserProjection
from server.aggregate import RoundOutcome, decode_sum
from server.algorithms import noise_deviation
from server.user_vector import RELEASE, ProjectionFleet, ProjectionPlan

PEOPLE, OUT, IN, MODEL, TEXT = 24, 8, 6, 20, 15
QUIET = {"fraction_not_clipped": 0.9, "mean_loss": 2.0, "mean_examples": 1.0, "effective_noise_multiplier": 1.0}
SETTINGS: dict[str, float | int | str] = {"work": "user_vector", "messages": 4, "step": 0.1}


def some_frame() -> ProjectionFrame:
    random = np.random.default_rng(0)
    return ProjectionFrame(
        "a" * 64,
        "b" * 64,
        0.1,
        3.0,
        np.eye(MODEL, dtype=np.float32)[0],
        np.zeros(TEXT, np.float32),
        np.eye(IN, TEXT, dtype=np.float32),
        np.linalg.qr(random.normal(size=(MODEL, OUT)))[0].astype(np.float32),
    )


def task_from(chosen: Mapping[str, Any], number: int = 0, noise_multiplier: float = 0.0) -> RoundTask:
    """The task that a fleet would make of the algorithm's choice."""
    digests = {role: hashlib.sha256(data).hexdigest() for role, data in chosen["artefacts"].items()}
    return plan_task(
        run_id="run",
        round=number,
        noise_multiplier=noise_multiplier,
        cohort_size=PEOPLE,
        minimum_survivors=PEOPLE,
        delta=1e-3,
        **{**chosen, "artefacts": digests},
    )


def test_every_round_offers_what_the_one_before_published() -> None:
    frame = some_frame()
    fleet = ProjectionFleet(frame, ProjectionPlan(rounds=2, clip=5.0, training=SETTINGS))
    first = fleet.next_task([])
    assert first is not None and first["settings"] == SETTINGS
    assert first["dimension"] == frame.dimension == OUT * (IN + 1)
    move = np.random.default_rng(1).normal(size=frame.dimension)
    published = fleet.absorb(task_from(first), move, PEOPLE, QUIET)
    second = fleet.next_task([object()])  # type: ignore[list-item]
    assert second is not None
    released = UserProjection.from_bytes(published[RELEASE])
    assert released.theta == pytest.approx(move, rel=1e-6)  # no noise, nothing shrunk
    assert released.frame.digest == frame.digest
    held = second["artefacts"]
    assert held["frame"] == frame.to_bytes()
    shared = Coordinates.from_bytes(held["shared"], frame_sha256=frame.digest, dimension=frame.dimension).rows[0]
    assert np.array_equal(shared, released.theta) and np.array_equal(shared, fleet.projection.theta)
    assert fleet.next_task([object(), object()]) is None  # type: ignore[list-item]


def test_a_matrix_of_noise_moves_nobody_while_the_shared_token_learns() -> None:
    frame = some_frame()
    fleet = ProjectionFleet(frame, ProjectionPlan(clip=0.3, training=SETTINGS))
    chosen = fleet.next_task([])
    assert chosen is not None
    task = task_from(chosen, noise_multiplier=2.0)
    deviation = noise_deviation(task, PEOPLE)
    assert deviation > 0.0
    noise = np.random.default_rng(2).normal(size=frame.dimension)
    noise[:-OUT] *= 0.9 * deviation * np.sqrt(OUT * IN) / np.linalg.norm(noise[:-OUT])
    noise[-OUT:] = 4 * deviation
    fleet.absorb(task, noise, PEOPLE, QUIET)
    matrix, bias = frame.parts(fleet.theta)
    assert not matrix.any()
    assert bias == pytest.approx(np.full(OUT, 4 * deviation) * (1 - (OUT - 2) / (16 * OUT)))


def test_replaying_the_outcomes_gives_the_same_projection_through_the_real_sum() -> None:
    frame, random = some_frame(), np.random.default_rng(3)
    plan = ProjectionPlan(rounds=3, clip=0.3, training=SETTINGS)
    fleet = ProjectionFleet(frame, plan)
    outcomes: list[RoundOutcome] = []
    wanted = 0.2 * random.normal(size=frame.dimension) / np.sqrt(frame.dimension)
    for number in range(plan.rounds):
        chosen = fleet.next_task(outcomes)
        assert chosen is not None
        task = task_from(chosen, number, noise_multiplier=0.05)
        mechanism = RoundPlan.of(task)
        total = np.sum([mechanism.contribute(wanted, 2.0, 1) for _ in range(PEOPLE)], axis=0)
        outcome = decode_sum(task, (total % (1 << task.ring_bits)).astype(np.uint32), PEOPLE)
        outcomes.append(outcome)
        fleet.absorb(task, outcome.mean_update, outcome.survivors, outcome.metrics)
    assert fleet.theta == pytest.approx(3 * wanted, abs=0.05)
    again = ProjectionFleet(frame, plan)
    for outcome in outcomes:
        again.absorb(outcome.task, outcome.mean_update, outcome.survivors, outcome.metrics)
    assert np.array_equal(again.theta, fleet.theta)
    assert again.next_task(outcomes[:2]) == fleet.next_task(outcomes[:2])


@pytest.mark.parametrize("change", [{"rounds": 0}, {"clip": 0.0}])
def test_a_plan_that_learns_nothing_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(PenchantError):
        ProjectionPlan(**change)  # type: ignore[arg-type]
