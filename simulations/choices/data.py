"""Choices of many people as the tables see them: who preferred which of two items, split into training and held out.

A loader gives a `ChoiceSet`: public items (prompt, text) and, per person, pairs of item numbers with outcomes, oldest
first. `judges` turns it into `Judge`s once every item has its features phi. Nobody's held-out choices, and no choice
of a newcomer, takes part in fitting anything for the fleet.

| set | items | a choice | held out | newcomers |
|---|---|---|---|---|
| `taste` | arguments | simulated (`simulations.choices.tastes`) | pairs of other arguments | the last drawn |
| `ukpconvarg` | arguments | which convinces more, or neither | the latest quarter | a fifth of the reported |
| `movielens` | films | the one rated higher | pairs of the films rated last (a quarter) | a fifth |
| `village` | answers | the one that suits them | as the village splits them, by day | as the village says |

Sources: UKPConvArg1 (Habernal and Gurevych, ACL 2016, CC BY 4.0); MovieLens small (GroupLens); neither ships with
the project.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from protocol.errors import PenchantError
from protocol.reward_model import Choices
from simulations.choices.tastes import TasteRecipe, score_texts, simulate_people
from simulations.datasets.movielens import film_features, rating_pairs, read_movielens
from simulations.datasets.village import load_village
from simulations.datasets.writing import field_of, read_records
from simulations.people import Role

Item = tuple[str, str]  # prompt, text
HELD_OUT_FRACTION: Final = 0.25
NEWCOMER_FRACTION: Final = 0.2
FEWEST_TO_TRAIN: Final = 8  # a fleet person of ukpconvarg with fewer stays at home
FEWEST_JUDGEMENTS: Final = 40  # of a person whom the ukpconvarg table reports
MOST_JUDGEMENTS: Final = 64  # of a person in training, the latest; a few gave thousands
_OUTCOMES: Final = {"a1": 1.0, "a2": 0.0, "equal": 0.5}


@dataclass(frozen=True)
class Judgements:
    """One person's choices: `pairs` (m, 2) item numbers and `outcomes` (m,) in {1 first, 0 second, 0.5 tie}, oldest
    first, for training and held out. Nobody reports on a person without held-out choices; they only train.
    """

    user: str
    role: Role
    pairs: NDArray[np.int64]
    outcomes: NDArray[np.float64]
    held_out_pairs: NDArray[np.int64]
    held_out_outcomes: NDArray[np.float64]


@dataclass(frozen=True)
class ChoiceSet:
    """`items` with the group (topic, question) of each, and `people`, the fleet first. `item_features` (items, n) is
    set where the items have public features of their own and need no model to be read; `truth` where people are
    simulated: (scores of the items (items, s), what each person makes of them (people, s)).
    """

    name: str
    items: tuple[Item, ...]
    groups: tuple[str, ...]
    people: tuple[Judgements, ...]
    item_features: NDArray[np.float64] | None = None
    truth: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None


@dataclass(frozen=True)
class Judge:
    """A person as a method sees them: choices between features, for training and held out."""

    user: str
    role: Role
    choices: Choices
    held_out: Choices


def judges(choice_set: ChoiceSet, phi: NDArray[np.floating]) -> list[Judge]:
    """Everybody's choices as differences of `phi` (items, k)."""
    if len(phi) != len(choice_set.items):
        raise PenchantError(f"{len(choice_set.items)} items need as many rows of features, got {len(phi)}")

    def choices(pairs: NDArray[np.int64], outcomes: NDArray[np.float64]) -> Choices:
        return Choices(phi[pairs[:, 0]] - phi[pairs[:, 1]], outcomes)

    return [
        Judge(
            person.user,
            person.role,
            choices(person.pairs, person.outcomes),
            choices(person.held_out_pairs, person.held_out_outcomes),
        )
        for person in choice_set.people
    ]


def argument_items(folder: Path) -> tuple[Item, ...]:
    """Every argument under its debate: public texts, with nobody's judgement of them."""
    return _arguments(folder)[0]


def load_taste(folder: Path, recipe: TasteRecipe) -> ChoiceSet:
    """The taste population of `recipe` over the arguments of ukpconvarg, grouped by debate."""
    items = argument_items(folder)
    debates = tuple(debate for debate, _ in items)
    texts = [text for _, text in items]
    people = simulate_people(texts, debates, recipe)
    return ChoiceSet(
        "taste",
        items,
        debates,
        tuple(
            Judgements(
                person.name,
                "fleet" if number < recipe.fleet else "newcomer",
                person.pairs,
                person.outcomes,
                person.held_out_pairs,
                person.held_out_outcomes,
            )
            for number, person in enumerate(people)
        ),
        truth=(score_texts(texts), np.stack([person.taste for person in people])),
    )


def load_ukpconvarg(folder: Path, seed: int = 0) -> ChoiceSet:
    """Real judges of arguments. Those with 8 to 39 judgements are in the fleet and train with all they have (people
    with fewer stay at home: they say little, and they are so many that they would outvote the rest). Of the others the
    latest quarter is held out, the 64 before it are for training, and a fifth of them, drawn by `seed`, are newcomers.
    """
    items, places, records = _arguments(folder)
    rows: dict[str, list[tuple[str, int, int, float]]] = defaultdict(list)
    for record in records:
        outcome = _OUTCOMES.get(field_of(record, "choice", str))
        if outcome is None:
            raise PenchantError(f"a judgement's choice is none of {', '.join(_OUTCOMES)}: fetch ukpconvarg again")
        pair = places[record["a1"]], places[record["a2"]]
        rows[field_of(record, "user", str)].append((field_of(record, "time", str), *pair, outcome))
    reported = sorted(user for user, own in rows.items() if len(own) >= FEWEST_JUDGEMENTS)
    new = _draw_newcomers(reported, f"ukpconvarg {seed}")
    people = []
    for user in sorted(rows):
        own = sorted(rows[user])
        if len(own) < FEWEST_TO_TRAIN:
            continue
        pairs = np.array([row[1:3] for row in own], dtype=np.int64)
        outcomes = np.array([row[3] for row in own])
        cut = len(own) if len(own) < FEWEST_JUDGEMENTS else len(own) - round(len(own) * HELD_OUT_FRACTION)
        people.append(
            Judgements(
                user,
                "newcomer" if user in new else "fleet",
                pairs[:cut][-MOST_JUDGEMENTS:],
                outcomes[:cut][-MOST_JUDGEMENTS:],
                pairs[cut:],
                outcomes[cut:],
            )
        )
    return ChoiceSet("ukpconvarg", items, tuple(debate for debate, _ in items), _fleet_first(people))


def load_movielens(folder: Path, seed: int = 0) -> ChoiceSet:
    """Pairs derived from ratings: two films of one user and part with different ratings, the higher one chosen.

    A user's films are ordered by the time of rating; pairs for training are drawn among the first three quarters,
    held-out pairs among the rest, at most 64 each, no film in two of them: pairs that share a film agree by themselves,
    and a method that is tuned on them believes in taste that is not there.
    """
    films, rated, tags = read_movielens(folder / "movielens")
    users = sorted(rated, key=int)
    new = _draw_newcomers(users, f"movielens {seed}")
    people = []
    for user in users:
        own = sorted(rated[user])
        cut = len(own) - round(len(own) * HELD_OUT_FRACTION)
        draw = random.Random(f"movielens {seed} {user}")
        pairs, outcomes = rating_pairs(own[:cut], draw)
        held_out_pairs, held_out_outcomes = rating_pairs(own[cut:], draw)
        if len(pairs) and len(held_out_pairs):
            role: Role = "newcomer" if user in new else "fleet"
            people.append(Judgements(f"film-{user}", role, pairs, outcomes, held_out_pairs, held_out_outcomes))
    items = tuple(("", film["title"]) for film in films)
    features = film_features(films, tags)
    return ChoiceSet("movielens", items, ("films",) * len(items), _fleet_first(people), features)


def load_village_choices() -> ChoiceSet:
    """The village's choices between two answers. In the files the chosen answer stands first; here it stands first in
    every other pair only, so that no method can learn the place.
    """
    items: list[Item] = []
    groups: list[str] = []
    people = []
    for person in load_village():
        parts = []
        for rows in (person.train_choices, person.test_choices):
            pairs, outcomes = [], []
            for place, row in enumerate(rows):
                both = [(row.prompt, row.chosen), (row.prompt, row.rejected)]
                pairs.append((len(items), len(items) + 1))
                outcomes.append(1.0 - place % 2)
                items += both if place % 2 == 0 else both[::-1]
                groups += [row.prompt] * 2
            parts.append((np.array(pairs, dtype=np.int64), np.array(outcomes)))
        people.append(Judgements(person.id, person.role, *parts[0], *parts[1]))
    return ChoiceSet("village", tuple(items), tuple(groups), tuple(people))


def _arguments(folder: Path) -> tuple[tuple[Item, ...], dict[int, int], list[dict[str, Any]]]:
    """Every judged argument as (title of its debate, text); the place of each by its number; the judgements."""
    judgements = list(read_records(folder / "ukpconvarg" / "judgements.jsonl.gz"))
    titles: dict[int, str] = {}
    for record in judgements:
        for side in ("a1", "a2"):
            titles[field_of(record, side, int)] = field_of(record, "title", str)
    texts = {
        field_of(record, "id", int): field_of(record, "text", str)
        for record in read_records(folder / "ukpconvarg" / "arguments.jsonl.gz")
    }
    if not titles.keys() <= texts.keys():
        raise PenchantError("a judgement names an argument that is not in the file: fetch ukpconvarg again")
    items = tuple((titles[number], texts[number]) for number in sorted(titles))
    return items, {number: place for place, number in enumerate(sorted(titles))}, judgements


def _draw_newcomers(users: Sequence[str], seed: str) -> set[str]:
    return set(random.Random(seed).sample(list(users), round(len(users) * NEWCOMER_FRACTION)))


def _fleet_first(people: Sequence[Judgements]) -> tuple[Judgements, ...]:
    return tuple(sorted(people, key=lambda person: person.role != "fleet"))
