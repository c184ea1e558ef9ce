"""People whose taste changes at a known choice, and ways to follow them in reward space.

A person has one taste (`simulations.choices.tastes`) for the first ``change`` choices and another one, drawn anew, from
then on. What differs between the two is theirs: the common part stays. Weights on the fleet's bank are fitted after
every few choices by one of

    none       the fleet's shared taste: no weights
    frozen     the first ``learnt`` choices, once and for all
    all        everything so far, alike
    window n   the n latest (the product takes 100: `edge_runtime/reward/taste.py`)
    carry r    only what came since the last fit, with the last weights as the prior's mean and r times its spread:
               w_t = argmax p(choices since) N(w; w_(t-1), r^2 diag(spread^2)), a filter that forgets
    stranger   the next person's weights of ``all`` (control)

Error: of held-out pairs on which the two tastes disagree by ``margin`` or more, the share in which the reward prefers
what the *present* taste does not. After the change that is the stale preference: what the person liked before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.bank import Bank
from protocol.reward_model import Choices, fit_weights
from simulations.choices.data import judges, load_taste
from simulations.choices.features import item_features
from simulations.choices.reward_fleet import centralised_bases
from simulations.choices.tastes import TasteRecipe, draw_outcomes, draw_pairs, draw_taste, split_texts

Array = NDArray[np.float64]
WINDOWS: Final = (20, 50, 100)
CARRIES: Final = (0.1, 0.3, 1.0)
METHODS: Final = (
    "none", "frozen", "all", *(f"window {n}" for n in WINDOWS), *(f"carry {r:g}" for r in CARRIES), "stranger",
)  # fmt: skip


@dataclass(frozen=True)
class DriftRecipe:
    """The taste changes after ``change`` of ``choices``; weights are fitted anew every ``step``."""

    people: int = 60
    choices: int = 220
    change: int = 110
    step: int = 10
    learnt: int = 50
    held_out_pairs: int = 200
    margin: float = 0.5
    bases: int = 8
    dimension: int = 48
    tastes: TasteRecipe = field(default_factory=lambda: TasteRecipe(fleet=300, newcomers=0))


@dataclass(frozen=True, eq=False)
class Drifter:
    """A person's choices in order, and differences (p, k) of held-out pairs, each turned so that the taste before the
    change prefers the first and the taste after it the second."""

    choices: Choices
    disputed: Array


@dataclass(frozen=True, eq=False)
class World:
    """The fleet's bank and the people who drift."""

    bank: Bank
    people: tuple[Drifter, ...]


def make_world(folder: Path, recipe: DriftRecipe, seed: int) -> World:
    """The bank of a fleet of steady people, and other people who change."""
    tastes = replace(recipe.tastes, seed=seed)
    known = load_taste(folder, tastes)
    phi = item_features(known, folder, ["embedding", "style"], recipe.dimension).phi
    fleet = [judge.choices for judge in judges(known, phi)]
    bank = centralised_bases(fleet, recipe.bases, sweeps=10, tie_width=tastes.tie_width, seed=seed)
    if known.truth is None:
        raise RuntimeError("the taste population has no truth")
    texts = split_texts(known.groups, tastes, np.random.default_rng([seed, 0]))
    people = [
        draw_drifter(phi, known.truth[0], texts, recipe, np.random.default_rng([seed, 2, number]))
        for number in range(recipe.people)
    ]
    return World(bank, tuple(people))


def draw_drifter(
    phi: Array,
    scores: Array,
    texts: tuple[Sequence[NDArray[np.int64]], Sequence[NDArray[np.int64]]],
    recipe: DriftRecipe,
    random: np.random.Generator,
) -> Drifter:
    """A person: features ``phi`` (items, k) and ``scores`` (items, s) of the texts, which are split by group into those
    that are chosen from and those held out."""
    before, after = (scores @ draw_taste(recipe.tastes, random) for _ in range(2))
    pairs = draw_pairs(texts[0], recipe.choices, random)
    early, late = pairs[: recipe.change], pairs[recipe.change :]
    outcomes = np.concatenate(
        [draw_outcomes(before, early, recipe.tastes, random), draw_outcomes(after, late, recipe.tastes, random)]
    )
    held_out = draw_pairs(texts[1], recipe.held_out_pairs, random)
    was, now = (worth[held_out[:, 0]] - worth[held_out[:, 1]] for worth in (before, after))
    disputed = (was * now < 0) & (np.minimum(np.abs(was), np.abs(now)) >= recipe.margin)
    turned = np.sign(was[disputed])[:, None] * (phi[held_out[disputed, 0]] - phi[held_out[disputed, 1]])
    return Drifter(Choices(phi[pairs[:, 0]] - phi[pairs[:, 1]], outcomes), turned)


def error(disputed: Array, direction: Array, changed: bool) -> float:
    """Share of disputed pairs (p, k) in which the reward of ``direction`` (k,) prefers what the present taste does not;
    no difference is half an error."""
    apart = disputed @ direction
    for_old = float(np.mean((apart > 0) + 0.5 * (apart == 0)))
    return for_old if changed else 1.0 - for_old


def directions(choices: Choices, bank: Bank, method: str, recipe: DriftRecipe) -> dict[int, Array]:
    """Number of choices seen -> the reward's direction (k,) by a method (all but ``stranger``)."""
    kind, _, number = method.partition(" ")
    seen = range(recipe.step, recipe.choices + 1, recipe.step)
    if kind == "none":
        return dict.fromkeys(seen, bank.shared)
    if kind == "carry":
        return _carried(choices, bank, float(number), recipe)
    found = {}
    for count in seen:
        first = max(0, count - int(number)) if kind == "window" else 0
        last = min(count, recipe.learnt) if kind == "frozen" else count
        found[count] = bank.mix(fit_weights(choices.part(slice(first, last)), bank).weights)
    return found


def _carried(choices: Choices, bank: Bank, ratio: float, recipe: DriftRecipe) -> dict[int, Array]:
    """The first fit has the fleet's prior, whatever the ratio."""
    found, prior = {}, bank
    for count in range(recipe.step, recipe.choices + 1, recipe.step):
        latest = choices.part(slice(count - recipe.step, count))
        direction = prior.mix(fit_weights(latest, prior).weights)
        found[count] = direction
        prior = replace(bank, shared=direction, spread=ratio * bank.spread)
    return found


def follow(world: World, recipe: DriftRecipe) -> Mapping[str, Array]:
    """Method -> errors (people, fits), after every ``step`` choices; a fit at the change itself is judged by the taste
    that made the choices so far. Not a number for people whose tastes dispute no held-out pair."""
    seen = list(range(recipe.step, recipe.choices + 1, recipe.step))
    errors: dict[str, Array] = {method: np.full((len(world.people), len(seen)), np.nan) for method in METHODS}
    made = [
        {method: directions(person.choices, world.bank, method, recipe) for method in METHODS[:-1]}
        for person in world.people
    ]
    for row, person in enumerate(world.people):
        if not len(person.disputed):
            continue
        by_method = made[row] | {"stranger": made[(row + 1) % len(made)]["all"]}
        for method, found in by_method.items():
            errors[method][row] = [error(person.disputed, found[count], count > recipe.change) for count in seen]
    return errors
