from __future__ import annotations

import math

import numpy as np
import pytest

from client.work import LocalUpdate
from protocol.accounting import squared_gaussian_mu
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan, plan_task
from simulations.attacks.ceilings import Ceiling
from simulations.attacks.finding import mean_over, proportion
from simulations.attacks.people import (
    PeopleRound,
    identified,
    likelihood_ratio,
    likeness_of_weights,
    masked,
    others_known,
    transcript_scores,
    weight_direction,
)

PEOPLE, DIMENSION = 12, 32


def round_task(kind: str = "shared", rows: int = 1, seed: int = 1, people: int = PEOPLE) -> RoundTask:
    return plan_task(
        run_id="people",
        round=0,
        kind=kind,  # type: ignore[arg-type]
        artefacts={},
        base_sha256="0" * 64,
        dimension=DIMENSION if kind == "shared" else 8,
        basis_count=rows,
        clip_norm=0.6,
        noise_multiplier=1.5,
        cohort_size=people,
        minimum_survivors=people,
        delta=1e-5,
        rotation_seed=seed,
        graph_seed=seed,
    )


def made(task: RoundTask, seed: int = 0, norm: float = 2.0) -> PeopleRound:
    random = np.random.default_rng(seed)
    drawn = random.normal(size=(PEOPLE, task.update_dimension))
    drawn *= norm / np.linalg.norm(drawn, axis=1, keepdims=True)
    return PeopleRound.of(task, [LocalUpdate(one, 3.0, 1) for one in drawn], random)


ROUNDS = [made(round_task(seed=1), 1), made(round_task(seed=2), 2)]
MU = math.sqrt(squared_gaussian_mu(one.plan.privacy_event() for one in ROUNDS))


def test_people_are_bounded_by_what_the_noise_covers() -> None:
    one = ROUNDS[0]
    assert np.linalg.norm(one.integers, axis=1).max() <= one.plan.codec.rounded_sensitivity
    assert np.abs(one.integers - one.exact).max() <= 1.0
    deviation = one.noise(4000, PEOPLE, np.random.default_rng(0)).std()
    assert deviation == pytest.approx(math.sqrt(one.variance), rel=0.02)


def test_membership_with_others_known_meets_the_ceiling_and_does_not_pass_it() -> None:
    random, ceiling = np.random.default_rng(3), Ceiling.of_gaussian(MU).auc
    noisy = mean_over(others_known(ROUNDS, 800, random))
    assert noisy.surely < ceiling < noisy.value + 0.04  # everybody is at the clip: hardly anything is lost
    assert others_known(ROUNDS, 20, random, noisy=False).min() == 1.0


def test_shadow_fleets_find_members_only_without_noise() -> None:
    random, ceiling = np.random.default_rng(4), Ceiling.of_gaussian(MU).auc
    bare = likelihood_ratio(ROUNDS, PEOPLE // 2, 2000, random, noisy=False)
    hidden = likelihood_ratio(ROUNDS, PEOPLE // 2, 2000, random)
    raw = likelihood_ratio(ROUNDS, PEOPLE // 2, 2000, random, calibrated=False)
    assert bare.mean() > 0.95
    for found in (hidden, raw):
        assert mean_over(found).value > 0.5 and mean_over(found).surely < ceiling


def test_identity_is_open_in_the_bare_update_bounded_in_the_sum_and_gone_under_a_mask() -> None:
    random, one = np.random.default_rng(5), ROUNDS[0]
    mu = math.sqrt(squared_gaussian_mu([one.plan.privacy_event()]))
    assert identified(one, 200, random, noisy=False) == (200, 200)
    noisy = proportion(*identified(one, 3000, random))
    assert noisy.low > 1 / PEOPLE and noisy.surely < Ceiling.of_gaussian(mu).identification(PEOPLE)
    hidden = proportion(*masked(one, 1500, random))
    assert hidden.surely < 1 / PEOPLE < hidden.value + 0.03


def test_a_transcript_without_noise_tells_members_from_others() -> None:
    random = np.random.default_rng(6)
    sums = [one.integers[:6].sum(0) for one in ROUNDS]
    scores = transcript_scores(ROUNDS, sums)
    assert scores[:6].min() > scores[6:].max()
    drowned = [total + 40 * one.noise(1, PEOPLE, random)[0] for one, total in zip(ROUNDS, sums, strict=True)]
    assert transcript_scores(ROUNDS, drowned)[:6].min() < transcript_scores(ROUNDS, drowned)[6:].max()


def test_private_weights_are_open_in_the_bare_contribution_only() -> None:
    random, task = np.random.default_rng(7), round_task("bases", rows=4)
    rows = np.linalg.qr(random.normal(size=(8, 4)))[0].T
    residual = random.normal(size=8)
    weights = rows @ residual / np.linalg.norm(rows @ residual)
    bare = 0.6 * np.outer(weights, residual / np.linalg.norm(residual)).ravel()
    assert likeness_of_weights(bare, bare, rows) == pytest.approx(1.0)
    assert likeness_of_weights(bare, random.normal(size=32), rows) < 0.98
    theirs = [(task, LocalUpdate(bare, 0.0, 1))]
    assert weight_direction(theirs, 100, random, noisy=False) == (100, 100)
    mu = math.sqrt(squared_gaussian_mu([RoundPlan.of(task).privacy_event()]))
    right = proportion(*weight_direction(theirs, 2000, random))
    assert right.surely < Ceiling.of_gaussian(2 * mu).accuracy
