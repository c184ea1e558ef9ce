"""A small population whose rewards are known, for the tests of choice tables."""

from __future__ import annotations

import numpy as np

from protocol.reward_model import Choices
from simulations.choices.data import ChoiceSet, Judgements
from simulations.people import Role


def small_set(
    *, fleet: int = 60, newcomers: int = 20, features: int = 6, spread: float = 6.0, seed: int = 0
) -> ChoiceSet:
    """People who differ along two directions (`spread` of their weights) around a common vector, no choice noise to
    speak of, a few ties; 40 items with their own features.
    """
    random = np.random.default_rng(seed)
    items = random.standard_normal((40, features)) / np.sqrt(features)
    common = 3.0 * np.eye(features)[0]
    tastes = common + spread * random.standard_normal((fleet + newcomers, 2)) @ np.eye(features)[1:3]
    people = []
    for number, taste in enumerate(tastes):
        pairs = np.array([random.choice(40, 2, replace=False) for _ in range(36)])
        rewards = (items[pairs[:, 0]] - items[pairs[:, 1]]) @ taste
        drawn = 1.0 / (1.0 + np.exp(-rewards)) > random.random(36)
        outcomes = np.where(np.abs(rewards) < 0.1, 0.5, drawn.astype(float))
        role: Role = "fleet" if number < fleet else "newcomer"
        people.append(Judgements(f"p{number}", role, pairs[:24], outcomes[:24], pairs[24:], outcomes[24:]))
    texts = tuple(("", "word " * (number + 1)) for number in range(40))
    return ChoiceSet("movielens", texts, ("group",) * 40, tuple(people), items, (items, tastes))


def known_choices(taste: np.ndarray, count: int, seed: int) -> Choices:
    """`count` choices of a person with this reward vector."""
    random = np.random.default_rng(seed)
    differences = random.standard_normal((count, len(taste)))
    wins = 1.0 / (1.0 + np.exp(-differences @ taste)) > random.random(count)
    return Choices(differences, wins.astype(float))
