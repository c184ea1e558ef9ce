from __future__ import annotations

import numpy as np
import pytest

from protocol.feature_map import Source
from simulations.choices import feature_sources
from simulations.choices.data import ChoiceSet, Judgements
from simulations.choices.feature_sources import Judged, collect, compare, fit, nll

ITEMS, DEBATES = 200, 8


def some_choices(seed: int = 0) -> tuple[ChoiceSet, np.ndarray, np.ndarray]:
    """Judges who all prefer by one number; that number, and one that has nothing to do with it, both (items, 1)."""
    random = np.random.default_rng(seed)
    strength, noise = random.normal(size=(ITEMS, 1)), random.normal(size=(ITEMS, 1))
    debates = np.arange(ITEMS) % DEBATES
    people = []
    for number in range(20):
        first = random.integers(ITEMS, size=120)
        pairs = np.stack([first, (first + DEBATES * random.integers(1, 20, size=120)) % ITEMS], axis=1)
        p = 1 / (1 + np.exp(-3 * (strength[pairs[:, 0], 0] - strength[pairs[:, 1], 0])))
        outcomes = np.where(random.random(120) < 0.1, 0.5, (random.random(120) < p).astype(float))
        people.append(Judgements(f"judge-{number}", "fleet", pairs[:80], outcomes[:80], pairs[80:], outcomes[80:]))
    groups = tuple(f"debate {debate}" for debate in debates)
    items = tuple((group, f"text {number}") for number, group in enumerate(groups))
    return ChoiceSet("ukpconvarg", items, groups, tuple(people)), strength, noise


def test_the_fit_is_the_minimum_and_does_not_depend_on_the_order_of_a_pair() -> None:
    training, _ = collect(some_choices()[0])
    phi = np.random.default_rng(1).normal(size=(ITEMS, 3))
    theta = fit(phi, training, 3.0)

    def objective(at: np.ndarray) -> float:
        return float(nll(phi, training, at).sum() + 1.5 * at @ at)

    best = objective(theta)
    for step in 0.05 * np.concatenate([np.eye(3), -np.eye(3)]):
        assert objective(theta + step) > best
    turned = Judged(training.items[:, ::-1], 1 - training.outcomes, training.judges, training.debates)
    np.testing.assert_allclose(fit(phi, turned, 3.0), theta, atol=1e-9)


def test_what_people_choose_by_scores_and_what_they_do_not_is_chance() -> None:
    choice_set, strength, noise = some_choices()
    blocks: dict[Source, np.ndarray] = {"embedding": noise.astype(np.float32), "style": strength.astype(np.float32)}
    good, bad = compare(choice_set, blocks, [("style",), ("embedding",)], [1])
    (both,) = compare(choice_set, blocks, [("embedding", "style")], [2])
    assert good.features == "style" and both.features == "embedding+style" and (good.k, both.k) == (1, 2)
    for one in (good, both):
        assert one.same_accuracy[1] > 0.8 and one.unseen_accuracy[1] > 0.8 and one.unseen_nll[2] < 0.5
        assert one.same_accuracy[1] < one.same_accuracy[0] < one.same_accuracy[2]
    assert 0.4 < bad.unseen_accuracy[0] < 0.6 and bad.unseen_nll[0] == pytest.approx(np.log(2), abs=0.02)


def test_an_unseen_debate_is_not_learnt_from() -> None:
    """With one number per item everything can be learnt about the items that were judged, nothing about others."""
    choice_set, _, _ = some_choices()
    one = feature_sources.score("a strength per argument", np.eye(ITEMS), *collect(choice_set))
    assert one.same_accuracy[1] > 0.75
    assert one.unseen_nll[0] == pytest.approx(np.log(2), abs=1e-6)
