"""The people of the steering study, and what is learnt from their choices before anything is generated.

All choices are between the two answers of the village's pairs, which the model reads once for everybody. Two kinds of
people make them: the villagers themselves (twelve choices for training, the four latest held out), and taste people
(`simulations.choices.tastes`), whose true utility of any text is known and who therefore can judge generated answers. A
taste person chooses between the pairs of the villagers' training choices and is tested on the held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.answering.attributes import bayes_weights, drift_weights, log_length
from edge_runtime.engine.engine import Engine
from simulations.choices.attribute_ratios import cached_ratios
from simulations.choices.tastes import SCORERS, TasteRecipe, draw_outcomes, draw_taste
from simulations.datasets.village import load_village
from simulations.people import Choice, Person
from simulations.statistics import mean_interval

Array = NDArray[np.float64]
RECIPE = TasteRecipe(tie_width=0.0)  # every choice is decided: a tie teaches attributes nothing
CHOICE_COUNTS = (25, 50)
_STEP = 4


@dataclass(frozen=True)
class Pool:
    """The pairs: `choices` with whether each is `held_out`, the attribute log-ratios of chosen less rejected (n, A),
    and the same of log length (n,). `people` with the rows of each.
    """

    people: tuple[Person, ...]
    rows: tuple[NDArray[np.int64], ...]
    choices: tuple[Choice, ...]
    held_out: NDArray[np.bool_]
    ratios: Array
    longer: Array

    @property
    def texts(self) -> list[tuple[str, str]]:
        """(request, answer) of every pair: chosen and rejected in turn."""
        return [(choice.prompt, text) for choice in self.choices for text in (choice.chosen, choice.rejected)]


def village_pool(engine: Engine, people: int, on_progress: Callable[[float], None]) -> Pool:
    """The pairs of so many villagers, every fourth of the village."""
    chosen = tuple(load_village()[::_STEP][:people])
    choices: list[Choice] = []
    held_out: list[bool] = []
    rows = []
    for person in chosen:
        start = len(choices)
        choices += [*person.train_choices, *person.test_choices]
        held_out += [False] * len(person.train_choices) + [True] * len(person.test_choices)
        rows.append(np.arange(start, len(choices)))
    asked = [(choice.prompt, (choice.chosen, choice.rejected)) for choice in choices]
    read = cached_ratios("village", engine, asked, on_progress)
    longer = [log_length(choice.chosen) - log_length(choice.rejected) for choice in choices]
    ratios = np.stack([of_chosen - of_rejected for of_chosen, of_rejected in read])
    return Pool(chosen, tuple(rows), tuple(choices), np.array(held_out), ratios, np.array(longer))


@dataclass(frozen=True)
class Judge:
    """A taste person: `taste` (scorers,), and over all pairs of the pool the side they take, 1 or -1."""

    taste: Array
    sides: Array


def taste_people(pool_scores: Array, count: int, seed: int) -> list[Judge]:
    """`count` people; `pool_scores` (2n, scorers) are standardised scores of the pool's texts."""
    pairs = np.arange(len(pool_scores)).reshape(-1, 2)
    people = []
    for number in range(count):
        random = np.random.default_rng([seed, number])
        taste = draw_taste(RECIPE, random)
        outcomes = draw_outcomes(pool_scores @ taste, pairs, RECIPE, random)
        people.append(Judge(taste, 2.0 * outcomes - 1.0))
    return people


def without_length_scores(taste: Array) -> Array:
    """The taste of somebody who does not care for length."""
    return np.where(np.array([name == "length" for name in SCORERS]), 0.0, taste)


FITS = {"drift": drift_weights, "bayes": bayes_weights}


def village_choices(pool: Pool) -> dict[str, object]:
    """Share of held-out choices right, mean over villagers: each fit without length, the length rule, both."""
    right: dict[str, list[float]] = {name: [] for name in ("length rule", *FITS, "length + bayes", "stranger's bayes")}
    fitted = [_village_fits(pool, rows) for rows in pool.rows]
    for number, rows in enumerate(pool.rows):
        test = rows[pool.held_out[rows]]
        own, strangers = fitted[number], fitted[(number + 1) % len(fitted)]
        right["length rule"].append(_share(np.sign(own["length"]) * pool.longer[test]))
        for name in FITS:
            right[name].append(_share(pool.ratios[test] @ own[name]))
        both = pool.ratios[test] @ own["bayes"] + own["length"] * pool.longer[test]
        right["length + bayes"].append(_share(both))
        right["stranger's bayes"].append(_share(pool.ratios[test] @ strangers["bayes"]))
    held_out = int(pool.held_out.sum())
    return {"people": len(pool.rows), "held_out_choices": held_out, **{name: told(row) for name, row in right.items()}}


def taste_choices(pool: Pool, people: Sequence[Judge], seed: int) -> dict[str, object]:
    """The same of taste people, by the number of choices that they train on; the truth as the bound."""
    train, test = np.flatnonzero(~pool.held_out), np.flatnonzero(pool.held_out)
    table: dict[str, object] = {"people": len(people), "held_out_choices": len(test)}
    for count in CHOICE_COUNTS:
        right: dict[str, list[float]] = {name: [] for name in ("length rule", *FITS)}
        for number, person in enumerate(people):
            seen = np.random.default_rng([seed, 1, number]).permutation(train)[:count]
            ratios, longer = pool.ratios * person.sides[:, None], pool.longer * person.sides
            right["length rule"].append(_share(np.sign(np.sign(longer[seen]).sum()) * longer[test]))
            for name, fit in FITS.items():
                right[name].append(_share(ratios[test] @ fit(ratios[seen], longer[seen])))
        table[str(count)] = {name: told(row) for name, row in right.items()}
    return table


def person_attributes(pool: Pool, person: Judge) -> Array:
    """(A,) what the device of a taste person would steer by, from all training pairs."""
    train = ~pool.held_out
    return bayes_weights((pool.ratios * person.sides[:, None])[train], (pool.longer * person.sides)[train])


def villager_attributes(pool: Pool, number: int) -> Array:
    """(A,) the same of a villager."""
    rows = pool.rows[number]
    train = rows[~pool.held_out[rows]]
    return bayes_weights(pool.ratios[train], pool.longer[train])


def told(values: Sequence[float]) -> list[float]:
    """[mean, low, high] with a 95 % interval."""
    return [round(value, 4) for value in mean_interval(list(values))]


def _village_fits(pool: Pool, rows: NDArray[np.int64]) -> dict[str, Array]:
    train = rows[~pool.held_out[rows]]
    fits = {name: fit(pool.ratios[train], pool.longer[train]) for name, fit in FITS.items()}
    # which way and how surely length decides, on the scale of the attribute rewards
    return {**fits, "length": np.asarray(np.sign(pool.longer[train]).mean())}


def _share(margins: Array) -> float:
    """The share decided rightly; an undecided one counts half."""
    return float(np.mean((margins > 0) + 0.5 * (margins == 0)))
