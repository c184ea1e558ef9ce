from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client.centroid_work import kind_statistics
from protocol.bank import Bank
from protocol.centroid_sums import CentroidLayout, MixtureSums
from protocol.errors import PenchantError
from protocol.mixture_prior import MixturePrior
from protocol.reward_model import fit_weights_batch
from protocol.round_plan import RoundPlan
from protocol.taste_release import TasteRelease
from server.aggregate import decode_sum
from server.centroids import (
    PRIOR_RELEASE,
    CentroidPlan,
    CentroidRounds,
    large_enough,
    layout_of,
    next_prior,
    reseeded,
)
from server.planning import task_from_plan
from server.reward_bases import RELEASE
from simulations.choices.reward_fleet import identity_map
from tests.protocol.clustered_people import DIRECTIONS, FEATURES, KINDS, clustered_people

MAP = identity_map(FEATURES)
FLEET = clustered_people(240, 40, seed=2)
BANK = replace(FLEET.bank, space_sha256=MAP.digest)
UNIT = BANK.spread


def rounds(plan: CentroidPlan, noise_multiplier: float = 0.0) -> tuple[CentroidRounds, list[Any], list[Any]]:
    """Only sums reach the algorithm. Returns it after the last one, what each round published, and the outcomes."""
    algorithm, random = CentroidRounds(BANK, MAP, "a" * 64, plan), np.random.default_rng(1)
    fit, history, published = fit_weights_batch(FLEET.people, BANK), list[Any](), list[Any]()
    while (wanted := algorithm.next_task(history)) is not None:
        task = task_from_plan(
            wanted, run_id="r", round=len(history), attempt=0, cohort_size=240, minimum_survivors=240,
            dropout_fraction=0.0, noise_multiplier=noise_multiplier, delta=1e-5, ring_bits=16, artefacts={},
        ).model_copy(update={"rotation_seed": 7})  # fmt: skip
        prior = MixturePrior.from_bytes(
            wanted["artefacts"]["prior"], bank_sha256=algorithm.bank.digest, weight_count=DIRECTIONS
        )
        layout = CentroidLayout.for_clip_norm(task.clip_norm, len(prior.centroids), DIRECTIONS)
        found, mechanism = kind_statistics(fit, BANK, prior), RoundPlan.of(task)
        total = sum(
            mechanism.contribute(layout.contribution(int(m), u, s), 1.0, 1, rounding_rng=random, noise_rng=random)
            for m, u, s in zip(found.kinds, found.offsets, found.second_moments, strict=True)
        )
        outcome = decode_sum(task, np.asarray(total & 0xFFFF, dtype=np.uint32), 240)
        published.append(algorithm.absorb(task, outcome.mean_update, 240, outcome.metrics))
        history.append(outcome)
    return algorithm, published, history


@pytest.mark.parametrize("noise_multiplier", [0.0, 1.3])
def test_the_kinds_are_found_from_sums_alone(noise_multiplier: float) -> None:
    algorithm, published, _ = rounds(CentroidPlan(centroid_count=6, rounds=5), noise_multiplier)
    centroids = algorithm.prior.centroids

    def farthest(found: np.ndarray) -> float:
        """From a kind to the nearest centroid, in units of the bank's spread and the directions in which kinds differ;
        the kinds lie about 2.4 apart."""
        apart = ((FLEET.prior.centroids[:, None] - found) / UNIT)[..., :KINDS]
        return float(np.linalg.norm(apart, axis=2).min(1).max())

    start = CentroidRounds(BANK, MAP, "a" * 64, CentroidPlan(centroid_count=6)).prior.centroids
    assert farthest(centroids) < 0.5 < 1.0 < farthest(start)
    assert (algorithm.prior.within <= BANK.spread + 1e-6).all()
    assert published[:-1] == [{}] * 4 and set(published[-1]) == {RELEASE, PRIOR_RELEASE}
    bank = TasteRelease.from_bytes(published[-1][RELEASE]).bank
    assert np.allclose(bank.centroids, centroids, atol=1e-5) and np.allclose(bank.shared, BANK.shared, atol=1e-6)


def test_a_replay_of_the_same_sums_gives_the_same_bytes() -> None:
    plan = CentroidPlan(centroid_count=4, rounds=2)
    _, published, history = rounds(plan)
    again = CentroidRounds(BANK, MAP, "a" * 64, plan)
    for number, outcome in enumerate(history):
        again.next_task(history[:number])
        assert again.absorb(outcome.task, outcome.mean_update, 240, outcome.metrics) == published[number]


def sums_of(counts: list[float], *, deviation: float = 0.0, count_deviation: float = 0.0) -> MixtureSums:
    """Kinds of so many people who all stand 0.5 off their centroid in every direction."""
    people = np.array(counts)[:, None]
    return MixtureSums(
        0.5 * people * np.ones(DIRECTIONS), 0.3 * people * np.ones(DIRECTIONS), people[:, 0], deviation, count_deviation
    )


def prior_of(count: int) -> MixturePrior:
    random = np.random.default_rng(3)
    return MixturePrior("a" * 64, random.normal(size=(count, DIRECTIONS)), np.full(count, 1 / count), UNIT)


def test_a_kind_of_one_person_is_refused() -> None:
    """Neither its centroid nor its count survives the step, with noise or without."""
    prior = prior_of(3)
    for count_deviation in (0.0, 5.0):
        sums = sums_of([60.0, 1.0, 80.0], count_deviation=count_deviation)
        stepped = next_prior(prior, BANK, sums, minimum_people=10)
        assert np.allclose(stepped.centroids, prior.centroids[[0, 2]] + 0.5 * UNIT)
        assert np.allclose(stepped.shares, [60 / 140, 80 / 140])


def test_noise_that_makes_one_person_look_like_many_is_reckoned_with() -> None:
    """Of 20,000 kinds of one person whose count is noised, none is taken for a kind at ten people and three sigma."""
    noisy = 1.0 + 6.0 * np.random.default_rng(0).normal(size=20_000)
    zeros = np.zeros((20_000, DIRECTIONS))
    taken = large_enough(MixtureSums(zeros, zeros, noisy, 1.0, 6.0), 10)
    assert taken.mean() < 1e-4 and large_enough(MixtureSums(zeros, zeros, noisy, 1.0, 6.0), 2).mean() < 5e-3
    assert large_enough(sums_of([40.0], count_deviation=6.0), 10).all()


@pytest.mark.parametrize("noise_multiplier", [0.5, 2.0])
def test_an_attacker_who_knows_everybody_else_cannot_tell_more_than_the_noise_allows(noise_multiplier: float) -> None:
    """The strongest view: all other contributions and the target's own vector. Sums with and without the target are
    projected on that vector; their separation d' stays below the 1 / z that the accountant charges for."""
    plan, random = CentroidPlan(centroid_count=4), np.random.default_rng(5)
    wanted = CentroidRounds(BANK, MAP, "a" * 64, plan).next_task([])
    assert wanted is not None
    task = task_from_plan(
        wanted, run_id="r", round=0, attempt=0, cohort_size=40, minimum_survivors=40, dropout_fraction=0.0,
        noise_multiplier=noise_multiplier, delta=1e-5, ring_bits=24, artefacts={},
    ).model_copy(update={"rotation_seed": 7})  # fmt: skip
    layout = CentroidLayout.for_clip_norm(task.clip_norm, 4, DIRECTIONS)
    target, mechanism = layout.contribution(1, np.full(DIRECTIONS, 9.0), np.full(DIRECTIONS, 9.0)), RoundPlan.of(task)
    noise = replace(mechanism.noise, noise_multiplier=noise_multiplier, minimum_survivors=1)

    def seen(vector: np.ndarray, present: bool) -> float:
        total = noise.sample_share(mechanism.layout.dimension, random)
        if present:
            joint, _ = mechanism.layout.pack(vector, 0.0, 0, task.clip_norm)
            total = total + mechanism.codec.encode(joint, random)
        mean = mechanism.decode(np.asarray(total & ((1 << 24) - 1), dtype=np.uint32), 40).update
        return float(mean @ target)

    views = np.array([[seen(target, present) for _ in range(1500)] for present in (True, False)])
    separation = (views[0].mean() - views[1].mean()) / views.std(1).mean()
    assert 0.8 / noise_multiplier < separation < 1.1 / noise_multiplier


def test_where_every_kind_is_too_small_there_is_none() -> None:
    emptied = next_prior(prior_of(3), BANK, sums_of([3.0, 1.0, 0.0]), minimum_people=10)
    assert emptied.centroids.shape == (0, DIRECTIONS)
    assert np.array_equal(emptied.within, BANK.spread)
    algorithm, published, _ = rounds(CentroidPlan(centroid_count=3, rounds=4, minimum_people=1000))
    assert len(published) == 1  # it stops there, and says so in the release
    assert not len(TasteRelease.from_bytes(published[0][RELEASE]).bank.centroids)
    assert algorithm.next_task([None]) is None  # type: ignore[list-item]


def test_a_step_that_noise_explains_moves_no_centroid() -> None:
    prior = prior_of(1)
    still = next_prior(prior, BANK, sums_of([50.0], deviation=200.0), minimum_people=2)
    assert np.allclose(still.centroids, prior.centroids)


def test_the_place_of_a_dropped_kind_goes_to_the_widest() -> None:
    prior, sums = prior_of(3), sums_of([60.0, 1.0, 80.0])
    sums.squares[2, 1] *= 2.0
    stepped = next_prior(prior, BANK, sums, minimum_people=10)
    again = reseeded(stepped, BANK, sums, minimum_people=10, count=3)
    assert np.allclose(again.centroids[0], stepped.centroids[0])
    assert np.allclose((again.centroids[1] + again.centroids[2]) / 2, stepped.centroids[1])
    apart = again.centroids[1] - again.centroids[2]
    assert apart[1] > 0.1 and not apart[[0, 2, 3]].any()
    assert again.shares.sum() == pytest.approx(1.0) and len(again.shares) == 3


def test_the_task_asks_for_exactly_the_layout_and_its_bound() -> None:
    plan = CentroidPlan(centroid_count=5)
    algorithm = CentroidRounds(BANK, MAP, "a" * 64, plan)
    wanted = algorithm.next_task([])
    layout = layout_of(BANK, algorithm.prior, plan)
    assert wanted is not None and wanted["space"] == "reward" and wanted["settings"] == {"work": "centroids"}
    assert (wanted["dimension"], wanted["clip_norm"]) == (layout.dimension, layout.sensitivity)
    assert wanted["dimension"] == 5 * (2 * DIRECTIONS + 1)
    assert set(wanted["artefacts"]) == {"feature_map", "bank", "prior"}


def test_banks_that_cannot_be_clustered_are_refused() -> None:
    with pytest.raises(PenchantError, match="without directions"):
        CentroidRounds(Bank.of_shared("reward", MAP.digest, np.zeros(FEATURES)), MAP, "a" * 64, CentroidPlan())
    with pytest.raises(PenchantError, match="feature map"):
        CentroidRounds(FLEET.bank, MAP, "a" * 64, CentroidPlan())
    for wrong in ({"centroid_count": 0}, {"rounds": 0}, {"minimum_people": 1}):
        with pytest.raises(PenchantError, match="centroids need"):
            CentroidPlan(**wrong)
