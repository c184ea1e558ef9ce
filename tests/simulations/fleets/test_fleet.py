"""Rounds of a fleet: right sum, one noise of the right size, the same bits whatever the workers and however often it
was stopped, and an epsilon that claims only what the sampling gives."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from protocol.accounting import Accountant, PrivacyEvent
from protocol.clipping import clip_to_norm
from protocol.errors import PenchantError
from protocol.frames import Vector
from simulations.fleets.blocks import BlockSum, People, clip_factors, sum_clipped
from simulations.fleets.fleet import STATE, FleetPlan, FleetState, fleet_rounds, train_fleet
from tests.simulations.fleets.network_help import NETWORK, learner_in

PLAN = FleetPlan(population=40, cohort=10, rounds=4, clip_norm=0.3, noise_multiplier=0.5, seed=5)


class Silent:
    """A learner whose people offer nothing: what comes out of a round is noise."""

    dimension, people_at_once, digest = 20_000, 4, "silent"

    def clipped_sum(self, people: People, theta: Vector, clip_norm: float) -> BlockSum:
        return BlockSum(np.zeros(self.dimension), 0, 0.0)


def test_factors_are_those_of_the_projects_clipping() -> None:
    vectors = np.random.default_rng(0).normal(size=(6, 5)) * np.array([[0], [1e-3], [0.2], [1], [5], [1e30]])
    factors = clip_factors(torch.from_numpy(np.linalg.norm(vectors, axis=1)), 0.7).numpy()
    for vector, factor in zip(vectors, factors, strict=True):
        assert np.allclose(factor * vector, clip_to_norm(vector, 0.7)[0], rtol=1e-12)
    broken = torch.tensor([[1.0, math.nan], [math.inf, 0.0], [3.0, 4.0]])
    part = sum_clipped(broken, torch.tensor([math.nan, 1.0, 2.0]), 1.0)
    assert np.allclose(part.total, [0.6, 0.8]) and part.clipped == 3 and part.loss == 3.0


def test_a_round_is_the_mean_of_clipped_offers_and_one_noise(tmp_path: Path) -> None:
    learner, start = learner_in(tmp_path), NETWORK.start(0)
    for plan in (replace(PLAN, sampling="fixed"), PLAN, replace(PLAN, server_rate=0.25)):
        people = plan.people_of(0)
        deltas = learner.deltas(people, start)[0].numpy().astype(np.float64)
        clipped = [clip_to_norm(delta, plan.clip_norm)[0] for delta in deltas]
        mean = (np.sum(clipped, axis=0) + plan.noise_of(0, learner.dimension)) / plan.cohort
        state = next(fleet_rounds(plan, learner, start))
        assert np.allclose(state.theta, start + plan.server_rate * mean, atol=1e-6)
        assert state.notes[0].people == len(people) and state.notes[0].clipped > 0


def test_the_noise_has_the_promised_size_and_comes_once_whatever_the_blocks() -> None:
    plan = FleetPlan(1000, 100, 3, clip_norm=0.7, noise_multiplier=1.3, sampling="fixed", seed=1)
    thetas = [np.zeros(Silent.dimension), *(state.theta for state in fleet_rounds(plan, Silent(), np.zeros(20_000)))]
    steps = np.diff(thetas, axis=0)
    assert np.allclose(steps.std(axis=1), 1.3 * 0.7 / 100, rtol=0.02)
    assert np.abs(np.corrcoef(steps) - np.eye(3)).max() < 0.03  # another noise in every round
    other = train_fleet(replace(plan, seed=2, rounds=1), Silent(), np.zeros(20_000))
    assert abs(np.corrcoef(other.theta, steps[0])[0, 1]) < 0.03
    quiet = train_fleet(replace(plan, noise_multiplier=0.0), Silent(), np.ones(20_000))
    assert np.array_equal(quiet.theta, np.ones(20_000))


def test_the_number_of_workers_changes_no_bit(tmp_path: Path) -> None:
    learner, start = learner_in(tmp_path), NETWORK.start(0)
    one, two = (train_fleet(replace(PLAN, rounds=2), learner, start, workers=workers) for workers in (1, 2))
    assert np.array_equal(one.theta, two.theta) and one.notes == two.notes


def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    learner, start = learner_in(tmp_path / "people"), NETWORK.start(0)
    whole = train_fleet(PLAN, learner, start)
    folder = tmp_path / "run"
    rounds = fleet_rounds(PLAN, learner, start, folder=folder)
    next(rounds)
    next(rounds)
    rounds.close()
    seen: list[int] = []

    def note(state: FleetState) -> None:
        seen.append(state.round)

    resumed = train_fleet(PLAN, learner, start, folder=folder, on_round=note)
    assert seen == [3, 4]
    assert np.array_equal(resumed.theta, whole.theta) and resumed.notes == whole.notes
    again = train_fleet(PLAN, learner, start, folder=folder)  # nothing is left to do
    assert np.array_equal(again.theta, whole.theta)


def test_another_run_in_the_folder_and_a_damaged_state_are_refused(tmp_path: Path) -> None:
    learner, start, folder = learner_in(tmp_path / "people"), NETWORK.start(0), tmp_path / "run"
    train_fleet(replace(PLAN, rounds=1), learner, start, folder=folder)
    for plan, begin in ((replace(PLAN, rounds=1, seed=6), start), (replace(PLAN, rounds=1), start + 1)):
        with pytest.raises(PenchantError, match="another folder"):
            train_fleet(plan, learner, begin, folder=folder)
    (folder / STATE).write_bytes((folder / STATE).read_bytes()[:-40])
    with pytest.raises(PenchantError, match="remove the folder"):
        train_fleet(replace(PLAN, rounds=1), learner, start, folder=folder)


def test_cohorts_are_poisson_or_of_one_size_and_favour_nobody() -> None:
    plan = FleetPlan(50, 10, 3000, 1.0, 1.0, seed=2)
    cohorts = [plan.people_of(round) for round in range(3000)]
    sizes = np.array([len(cohort) for cohort in cohorts])
    assert sizes.mean() == pytest.approx(10, abs=0.2) and sizes.var() == pytest.approx(8, abs=0.7)  # N q (1 - q)
    often = np.bincount(np.concatenate(cohorts), minlength=50) / 3000
    assert np.abs(often - 0.2).max() < 0.035
    assert all(len(set(cohort)) == len(cohort) and (np.diff(cohort) > 0).all() for cohort in cohorts)
    fixed = replace(plan, sampling="fixed")
    assert {len(fixed.people_of(round)) for round in range(50)} == {10}
    assert np.array_equal(plan.people_of(7), replace(plan).people_of(7))
    assert not np.array_equal(fixed.people_of(7), fixed.people_of(8))


def test_epsilon_claims_the_sampling_of_poisson_cohorts_only() -> None:
    poisson = FleetPlan(1000, 50, 3, 1.0, 1.0)
    fixed = replace(poisson, sampling="fixed")
    assert fixed.epsilon(1e-5) == Accountant([PrivacyEvent(1.0, 1.0, 3)]).epsilon(1e-5)
    assert poisson.epsilon(1e-5) == Accountant([PrivacyEvent(1.0, 0.05, 3)]).epsilon(1e-5) < fixed.epsilon(1e-5)
    assert fixed.epsilon(1e-5, rounds=1) < fixed.epsilon(1e-5)
    assert replace(fixed, noise_multiplier=0.0).epsilon(1e-5) == math.inf


def test_a_plan_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    for wrong in ({"cohort": 41}, {"rounds": 0}, {"clip_norm": 0.0}, {"noise_multiplier": math.nan}, {"sampling": "x"}):
        with pytest.raises(PenchantError):
            replace(PLAN, **wrong)
    learner = learner_in(tmp_path)
    with pytest.raises(PenchantError, match="numbers"):
        train_fleet(PLAN, learner, np.zeros(3))
    with pytest.raises(PenchantError, match="at least one worker"):
        train_fleet(PLAN, learner, NETWORK.start(0), workers=0)
