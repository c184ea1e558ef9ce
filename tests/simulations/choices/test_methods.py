"""The compared methods: tuned on the fleet's own later choices, and each learns what it can."""

import numpy as np
import pytest

from protocol.bank import Bank
from protocol.reward_model import Choices
from simulations.choices.methods import (
    bank_method,
    fit_global,
    global_method,
    mean_nll,
    own_direction_method,
    residual_method,
    softmax_lore_method,
    tuning_split,
    with_residual,
)
from tests.simulations.choices.choice_help import known_choices

COMMON = np.array([2.0, 0.0, -1.0])
SPACE = "0" * 64


def test_the_tuning_choices_are_the_latest_quarter() -> None:
    choices = known_choices(COMMON, 10, 0)
    early, late = tuning_split([choices])
    np.testing.assert_array_equal(early[0].differences, choices.differences[:8])
    np.testing.assert_array_equal(late[0].differences, choices.differences[8:])


def test_the_global_fit_finds_taste_and_tie_width() -> None:
    random = np.random.default_rng(0)
    differences = random.standard_normal((20_000, 3))
    rewards, drawn, width = differences @ COMMON, random.random(20_000), 0.6
    first, second = 1 / (1 + np.exp(width - rewards)), 1 / (1 + np.exp(width + rewards))
    outcomes = np.where(drawn < first, 1.0, np.where(drawn < first + second, 0.0, 0.5))
    taste, tie_width = fit_global([Choices(differences, outcomes)], 100.0)
    np.testing.assert_allclose(taste, COMMON, atol=0.08)
    assert tie_width == pytest.approx(width, abs=0.05)


def test_ridge_shrinks_the_global_fit_and_no_ties_mean_no_tie_width() -> None:
    people = [known_choices(COMMON, 20, 0)]
    small, tie_width = fit_global(people, 0.05)
    large, _ = fit_global(people, 10.0)
    assert np.linalg.norm(small) < 0.1 * np.linalg.norm(large) and tie_width == 0.0


def test_people_who_are_alike_are_left_at_global_and_people_who_differ_are_not() -> None:
    alike = [known_choices(COMMON, 24, number) for number in range(80)]
    base = global_method(alike)
    shared = base.tastes(alike[:1])[0]
    own = own_direction_method("map", alike, shared, base.tie_width)
    assert own.settings["prior_deviation"] <= 0.25
    opposite = [known_choices(COMMON * (-1) ** number, 24, number) for number in range(80)]
    base = global_method(opposite)
    own = own_direction_method("map", opposite, base.tastes(opposite[:1])[0], base.tie_width)
    assert own.settings["prior_deviation"] >= 1.0
    late = [known_choices(COMMON * (-1) ** number, 24, 1000 + number) for number in range(80)]
    assert mean_nll(own.tastes(opposite), late, 0.0) < mean_nll(base.tastes(opposite), late, 0.0) - 0.1


def test_a_bank_without_choices_gives_its_shared_taste() -> None:
    bank = Bank("reward", SPACE, COMMON, np.eye(3)[:1], np.ones(1), np.zeros((0, 1)), 0.2)
    method = bank_method("ours", bank)
    np.testing.assert_allclose(method.tastes([Choices(np.zeros((0, 3)), np.zeros(0))]), COMMON[None])
    assert method.tie_width == 0.2 and method.settings["bases"] == 1


def test_softmax_lore_tunes_bases_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.choices.methods.LORE_BASES", (1, 2))
    monkeypatch.setattr("simulations.choices.methods.LORE_STEPS", 200)
    people = [known_choices(COMMON * (-1) ** number, 24, number) for number in range(30)]
    method = softmax_lore_method(people, 0.0, seed=0)
    assert method.settings["bases"] == 2 and method.settings["steps"] in (100, 200)


def test_a_residual_finds_what_no_basis_holds() -> None:
    tastes = [COMMON + np.array([0.0, 0.0, 3.0 * (-1) ** number]) for number in range(60)]
    people = [known_choices(taste, 24, number) for number, taste in enumerate(tastes)]
    bank = Bank("reward", SPACE, COMMON, np.eye(3)[:1], np.ones(1), np.zeros((1, 1)), 0.0)
    method = residual_method(people, bank, bank)
    assert method.settings["residual_deviation"] >= 1.0 and method.settings["bases"] == 1
    found = method.tastes(people)
    assert all(np.sign(taste[2]) == np.sign(own[2]) for taste, own in zip(found[:20], tastes, strict=False))
    assert with_residual(bank, 0.0) is bank
    alike = [known_choices(COMMON, 24, 500 + number) for number in range(60)]
    assert residual_method(alike, bank, bank).settings["residual_deviation"] <= 0.25
