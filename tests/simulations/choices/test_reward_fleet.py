from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import client.app
from protocol.accounting import noise_multiplier_for
from protocol.bank import Bank
from protocol.errors import PenchantError
from protocol.reward_model import ChoiceBatch, Choices, fit_weights_batch
from protocol.taste_release import TasteRelease
from server.aggregate import RoundOutcome
from server.releases import ReleaseShelf
from server.reward_bases import RELEASE, RewardBases, RewardPlan
from simulations.choices.reward_fleet import (
    PEOPLE_AT_ONCE,
    WHOLE_PAGES,
    centralised_bases,
    identity_map,
    pages_of,
    train_reward_bases,
)
from simulations.choices.reward_recovery import principal_angles, taste_population
from simulations.fleets.rewards import TasteStream
from tests.client.reward_help import choices_of, choose_by_style, style_map
from tests.fleet_help import grid_of, make_fleet, run_fleet, settings_of

SMALL = RewardPlan(shared_rounds=3, gradient_rounds=4, final_rounds=2, maximum_count=4)


def gram(bank: Bank) -> np.ndarray:
    """What the bank does to people, whatever the order, sign and rotation of its rows."""
    rows = bank.directions * bank.spread[:, None]
    return rows.T @ rows


def test_without_noise_it_is_the_run_of_real_devices_over_real_crypto(tmp_path: Path) -> None:
    homes = make_fleet(tmp_path / "devices", 8)
    choose_by_style(homes)
    people = choices_of(homes)
    plan = RewardPlan(shared_rounds=2, gradient_rounds=3, final_rounds=2, maximum_count=2, choice_clip=0.5)
    result = run_fleet(
        grid_of(homes), settings_of(rounds=plan.rounds), tmp_path / "out", RewardBases(style_map(), plan)
    )
    client.app.close_devices()
    shelf = ReleaseShelf(tmp_path / "out")
    newest = shelf.newest(RELEASE)
    assert newest is not None and len(result.outcomes) == plan.rounds
    real = TasteRelease.from_bytes(shelf.load(newest)).bank
    simulated = train_reward_bases(people, plan, feature_map=style_map())
    assert real.count == simulated.bank.count > 0
    assert np.allclose(real.shared, simulated.bank.shared, atol=0.02 * np.abs(real.shared).max())
    assert np.allclose(gram(real), gram(simulated.bank), atol=0.02 * np.abs(gram(real)).max())
    tastes = [bank.mix(fit_weights_batch(ChoiceBatch.of(people), bank).weights) for bank in (real, simulated.bank)]
    assert np.corrcoef(tastes[0].ravel(), tastes[1].ravel())[0, 1] > 0.999


def test_planted_directions_are_recovered_and_noise_costs_little_at_first() -> None:
    found = taste_population(people=400, features=16, rank=2, choices=24, seed=1)
    quiet = train_reward_bases(found.train, SMALL)
    assert quiet.bank.count == 2 and quiet.epsilon == np.inf
    assert principal_angles(quiet.bank.directions, found.directions).max() < 15
    noisy = train_reward_bases(found.train, SMALL, epsilon=20.0, seed=2)
    assert noisy.bank.count == 2
    assert principal_angles(noisy.bank.directions, found.directions).max() < 30
    assert train_reward_bases(found.train, SMALL, epsilon=0.05).bank.count == 0  # drowned: then nobody is moved


def test_nothing_is_found_where_people_do_not_differ() -> None:
    alike = taste_population(people=400, features=16, rank=0, choices=24, seed=1)
    assert train_reward_bases(alike.train, SMALL).bank.count == 0
    assert train_reward_bases(alike.train, SMALL, epsilon=8.0).bank.count == 0


def test_it_keeps_up_with_everybodys_choices_in_one_place() -> None:
    found = taste_population(people=400, features=16, rank=2, choices=24, seed=3)
    central = centralised_bases(found.train, 2, sweeps=10)
    ours = train_reward_bases(found.train, SMALL).bank
    scores = {name: found.accuracy(bank) for name, bank in (("central", central), ("ours", ours))}
    assert principal_angles(central.directions, found.directions).max() < 20
    assert scores["ours"] > scores["central"] - 0.5
    assert scores["central"] > found.accuracy(centralised_bases(found.train, 0)) + 3


def test_people_who_come_as_a_stream_give_the_same_bits_and_only_a_block_is_made_at_once() -> None:
    planted = taste_population(people=1, features=6, rank=2, choices=1, seed=0)
    stream = TasteStream(planted, people=2 * PEOPLE_AT_ONCE + 40, choices=5, seed=3)
    blocks = [stream.block(first, min(first + PEOPLE_AT_ONCE, stream.people)) for first in range(0, stream.people, 256)]
    assert [len(block.outcomes) for block in blocks] == [256, 256, 40]
    whole = ChoiceBatch(
        *(np.concatenate([getattr(block, name) for block in blocks]) for name in ("differences", "outcomes", "present"))
    )
    plan = RewardPlan(shared_rounds=2, gradient_rounds=1, final_rounds=0, maximum_count=2)
    one, other = (train_reward_bases(people, plan, epsilon=8.0, seed=1) for people in (whole, stream))
    assert one.bank.digest == other.bank.digest and one.people == other.people == 552
    assert np.array_equal(stream.block(256, 512).differences, blocks[1].differences)  # whenever it is asked for
    assert not np.array_equal(blocks[0].differences, blocks[1].differences)


def test_the_epsilon_asked_for_is_what_is_spent() -> None:
    people = [Choices(np.random.default_rng(n).normal(size=(6, 3)), np.ones(6)) for n in range(12)]
    plan = RewardPlan(shared_rounds=1, gradient_rounds=1, final_rounds=0, maximum_count=1)
    given = train_reward_bases(people, plan, epsilon=4.0, delta=1e-3)
    assert 3.9 < given.epsilon <= 4.0 and given.rounds == plan.rounds == 4
    assert given.noise_multiplier == pytest.approx(noise_multiplier_for(4.0, 1e-3, 4), rel=0.01)
    with_z = train_reward_bases(people, plan, noise_multiplier=given.noise_multiplier, delta=1e-3)
    assert with_z.epsilon == pytest.approx(given.epsilon) and with_z.bank.digest == given.bank.digest  # same seed
    other = train_reward_bases(people, plan, epsilon=4.0, delta=1e-3, seed=1)
    assert other.bank.digest != given.bank.digest
    with pytest.raises(PenchantError, match="not both"):
        train_reward_bases(people, plan, epsilon=1.0, noise_multiplier=1.0)


def test_the_released_means_carry_exactly_the_noise_that_is_promised() -> None:
    """Nobody chose anything: what is released in the first round is rounding (none, of zero) and noise."""
    people = [Choices(np.zeros((0, 20)), np.zeros(0)) for _ in range(16)]
    plan = RewardPlan(shared_rounds=1, gradient_rounds=0, final_rounds=0)
    deviations: list[float] = []
    promised: list[float] = []

    def note(outcome: RoundOutcome, algorithm: RewardBases) -> None:
        deviations.append(float(np.sqrt(np.mean(np.square(outcome.mean_update)))))
        promised.append(outcome.noise_deviation)

    for seed in range(6):
        train_reward_bases(people, plan, noise_multiplier=2.0, seed=seed, on_round=note)
    assert np.sqrt(np.mean(np.square(np.array(deviations) / promised))) == pytest.approx(1.0, abs=0.08)


def test_an_identity_map_leaves_features_alone() -> None:
    features = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    assert np.allclose(identity_map(3).apply(features), features)


def test_more_people_than_a_round_may_have_are_asked_in_turn() -> None:
    assert pages_of(600, 3) == [0, 1, 2]
    people = WHOLE_PAGES + 10 * PEOPLE_AT_ONCE
    rounds = [pages_of(people, number) for number in range(3)]
    assert all(len(set(pages)) == WHOLE_PAGES // PEOPLE_AT_ONCE for pages in rounds)
    assert rounds[1][:10] == list(range(WHOLE_PAGES // PEOPLE_AT_ONCE, people // PEOPLE_AT_ONCE)) and rounds[1][10] == 0
    assert set().union(*rounds) == set(range(people // PEOPLE_AT_ONCE))
