from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocol.bank import Bank
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.feature_map import FeatureMap
from protocol.messages import RoundTask
from protocol.reward_model import ChoiceBatch, fit_weights_batch
from protocol.reward_rounds import RewardWorkOrder, contribution
from protocol.taste_release import TasteRelease
from server.planning import task_from_plan
from server.reward_bases import RELEASE, RewardBases, RewardPlan, StepSize

K, RANK, PEOPLE = 12, 2, 400
SMALL = RewardPlan(shared_rounds=3, gradient_rounds=4, final_rounds=2, maximum_count=4)


def feature_map() -> FeatureMap:
    return FeatureMap(("style",), "", "", np.zeros(K, np.float32), np.eye(K, dtype=np.float32))


def population(
    rank: int = RANK, *, making: NDArray[np.float64] | None = None, ties: float = 0.0, seed: int = 0, count: int = 24
) -> tuple[ChoiceBatch, NDArray[np.float64]]:
    """(choices, planted directions (rank, K)): tastes differ along the directions; features are white @ `making`."""
    random = np.random.default_rng(seed)
    rows = np.linalg.qr(random.normal(size=(K, max(rank, 1))))[0].T[:rank]
    tastes = random.normal(size=K) + 4.0 * random.normal(size=(PEOPLE, rank)) @ rows
    x = random.normal(size=(PEOPLE, count, K)) / np.sqrt(K)
    d = np.einsum("nmk,nk->nm", x, tastes)
    draw, above, below = random.random(d.shape), 1 / (1 + np.exp(-d - ties)), 1 / (1 + np.exp(-d + ties))
    outcomes = np.where(draw < below, 1.0, np.where(draw < above, 0.5, 0.0))
    features = x if making is None else x @ making
    return ChoiceBatch(features, outcomes, np.ones(d.shape, dtype=bool)), rows


def task_from(wanted: Mapping[str, Any], number: int, noise_multiplier: float = 0.0) -> RoundTask:
    digests = {role: hashlib.sha256(data).hexdigest() for role, data in wanted["artefacts"].items()}
    return task_from_plan(
        wanted, run_id="test", round=number, attempt=0, cohort_size=PEOPLE, minimum_survivors=PEOPLE,
        dropout_fraction=0.0, noise_multiplier=noise_multiplier, delta=1e-5, ring_bits=16, artefacts=digests,
    )  # fmt: skip


def learn(
    people: ChoiceBatch, plan: RewardPlan = SMALL, noise: float = 0.0, seed: int = 0
) -> tuple[RewardBases, list[Bank]]:
    """Exact means with Gaussian noise of standard deviation `noise` clip norms on each number of the mean."""
    algorithm, random, released = RewardBases(feature_map(), plan), np.random.default_rng(seed), list[Bank]()
    history: list[Any] = []
    while (wanted := algorithm.next_task(history)) is not None:
        task = task_from(wanted, len(history), noise * PEOPLE)
        bank = Bank.from_bytes(wanted["artefacts"]["bank"], space_sha256=feature_map().digest, dimension=K)
        data = wanted["artefacts"]["whitening"]
        whitening = Coordinates.from_bytes(data, frame_sha256=feature_map().digest, dimension=K).rows
        mean = contribution(people, RewardWorkOrder.of(task, K), bank, whitening).vectors.mean(0)
        mean = mean + noise * task.clip_norm * random.normal(size=len(mean))
        data = algorithm.absorb(task, mean, PEOPLE, {})[RELEASE]
        released.append(TasteRelease.from_bytes(data).bank)
        history.append(None)
    return algorithm, released


def sines(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sines of the principal angles between two row spaces."""
    one, other = np.linalg.qr(one.T)[0], np.linalg.qr(other.T)[0]
    cosines = np.asarray(np.linalg.svd(one.T @ other, compute_uv=False), dtype=np.float64)
    return np.sqrt(np.maximum(0.0, 1.0 - cosines**2))


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_it_finds_the_planted_directions_and_how_many_there_are(rank: int) -> None:
    people, rows = population(rank)
    bank = learn(people)[1][-1]
    assert bank.count == rank
    if rank:
        assert sines(bank.directions, rows).max() < 0.25
        assert np.allclose(bank.directions @ bank.directions.T, np.eye(rank), atol=1e-6)
        assert ((bank.spread > 2.5) & (bank.spread < 5.5)).all()  # 4 was planted
        assert list(bank.spread) == sorted(bank.spread, reverse=True)


def test_it_finds_them_beneath_noise_and_nothing_in_noise_alone() -> None:
    people, rows = population()
    bank = learn(people, noise=0.002)[1][-1]
    assert bank.count == RANK and sines(bank.directions, rows).max() < 0.3
    bank = learn(people, noise=0.006)[1][-1]  # now one too many may look useful, but it hardly moves anybody
    assert RANK <= bank.count <= RANK + 1 and sines(bank.directions[:RANK], rows).max() < 0.4
    assert (bank.spread[RANK:] < 0.2 * bank.spread[RANK - 1]).all()
    alike, _ = population(0)
    assert learn(alike, noise=0.006)[1][-1].count == 0
    drowned, banks = learn(people, noise=0.3)  # far too much noise: then nobody is moved
    assert banks[-1].count == 0 and np.isfinite(drowned.shared).all()


def test_no_direction_is_published_before_held_out_choices_have_spoken() -> None:
    banks = learn(population()[0])[1]
    choice = SMALL.schedule.index("choice")
    assert [bank.count for bank in banks] == [0] * choice + [RANK] * (SMALL.rounds - choice)


def test_features_of_any_unit_and_with_any_correlation_teach_the_same() -> None:
    correlated = np.asarray(np.linalg.cholesky(np.full((K, K), 0.8) + 0.2 * np.eye(K)).T, dtype=np.float64)
    people, _ = population()
    plain = learn(people)[1][-1]
    rewards = [people.differences @ plain.mix(fit_weights_batch(people, plain).weights).T]
    for making in (7.0 * np.diag(np.geomspace(0.5, 2.0, K)), 0.1 * correlated):
        batch, _ = population(making=making)
        bank = learn(batch)[1][-1]
        assert bank.count == plain.count
        rewards.append(batch.differences @ bank.mix(fit_weights_batch(batch, bank).weights).T)
        assert np.corrcoef(rewards[0].ravel(), rewards[-1].ravel())[0, 1] > 0.98


def test_ties_are_seen_and_their_width_is_found() -> None:
    assert learn(population()[0])[0].tie_width == 0.0
    tied = learn(population(ties=0.6)[0])[0]
    assert tied.tie_width == pytest.approx(0.6, abs=0.12)
    noisy = learn(population()[0], noise=0.01, seed=3)[0]
    assert noisy.tie_width < 0.3


def test_the_shared_taste_is_learnt_and_better_than_none() -> None:
    people, _ = population(0)
    shared = learn(people)[0].shared
    truth = np.random.default_rng(0)
    truth.normal(size=(K, 1))
    assert np.corrcoef(shared, truth.normal(size=K))[0, 1] > 0.95


def test_the_schedule_and_what_each_round_asks() -> None:
    algorithm, history = RewardBases(feature_map(), SMALL), list[Any]()
    lengths = []
    while (wanted := algorithm.next_task(history)) is not None:
        task = task_from(wanted, len(history))
        order = RewardWorkOrder.of(task, K)
        assert task.space == "reward" and set(wanted["artefacts"]) == {"feature_map", "whitening", "bank"}
        assert order.held_out == (0.0 if len(history) > SMALL.schedule.index("choice") else 0.25)
        lengths.append((order.work, order.length))
        algorithm.absorb(task, np.full(order.length, 1e-3), PEOPLE, {})
        history.append(None)
    assert [work for work, _ in lengths] == list(SMALL.schedule) and len(history) == SMALL.rounds
    assert lengths[:4] == [
        ("scales", K + K * (K + 1) // 2 + 3),
        ("shared", K + 1),
        ("shared", K + 1),
        ("moments", K * (K + 1) // 2),
    ]


def test_a_gain_within_doubt_moves_nobody_and_of_equal_gains_the_fewest_directions_win() -> None:
    def after(gains: list[float], noise_multiplier: float = 1.0) -> RewardBases:
        algorithm = RewardBases(feature_map(), SMALL)
        history: list[Any] = []
        for work in SMALL.schedule:
            wanted = algorithm.next_task(history)
            assert wanted is not None
            task = task_from(wanted, len(history), noise_multiplier)
            mean = np.full(task.update_dimension, 1e-3)
            if work == "moments":
                mean = np.random.default_rng(0).normal(size=len(mean))
            if work == "choice":
                mean = np.array(gains)
                algorithm.absorb(task, mean, PEOPLE, {})
                return algorithm
            algorithm.absorb(task, mean, PEOPLE, {})
            history.append(None)
        raise AssertionError("no choice round")

    weak = [0.0] * 4
    assert len(after([0.01, 0.02, 0.02, 0.02, *weak]).directions) == 0
    assert len(after([0.1, 0.2, 0.5, 0.3, *weak]).directions) == 3
    assert len(after([0.1, 0.499, 0.5, 0.5, *weak]).directions) == 2
    full, less = after([0.5, 0.1, 0.1, 0.1, *weak]).directions, after([*weak, 0.5, 0.1, 0.1, 0.1]).directions
    assert np.allclose(less, 0.6 * full)


def test_steps_are_whole_without_noise_and_average_it_away_beneath_it() -> None:
    quiet, loud = StepSize(1.0, 0.7), StepSize(1.0, 0.7)
    assert [quiet.rate(0.0) for _ in range(5)] == [1.0] * 5
    rates = [loud.rate(0.8) for _ in range(30)]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.1
    random, truth, errors = np.random.default_rng(0), np.ones(4000), []
    value = np.zeros(4000)
    for rate in rates:
        value = value + rate * (0.7 * (truth - value) + 0.8 * random.normal(size=4000))
        errors.append(float(np.mean(np.square(value - truth))))
    assert errors[-1] == pytest.approx(loud.error, rel=0.1) and errors[-1] < 0.1  # whole steps would leave 0.7
    assert StepSize(0.0, 0.7).rate(0.0) == 0.0


def test_a_replay_of_the_same_sums_gives_the_same_bytes() -> None:
    people, _ = population(count=6)
    assert [bank.digest for bank in learn(people)[1]] == [bank.digest for bank in learn(people)[1]]


def test_plans_that_cannot_be_are_refused() -> None:
    for wrong in ({"shared_rounds": 0}, {"maximum_count": 0}, {"held_out": 0.0}, {"final_rounds": -1}):
        with pytest.raises(PenchantError):
            RewardPlan(**wrong)


def test_there_are_no_more_directions_than_features() -> None:
    algorithm = learn(population(count=6)[0], replace(SMALL, maximum_count=3 * K))[0]
    assert algorithm.gains is not None and algorithm.gains.shape[1] == K
