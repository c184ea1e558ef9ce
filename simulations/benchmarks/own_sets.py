"""The sets that the project reads already, as benchmarks: blogs, novels, PrefEval, UKPConvArg, MovieLens.

| set | history | query | scored by |
|---|---|---|---|
| blogs, novels | first words of a post or passage -> the next words | the same for the newest ones | nats per token |
| prefeval | one stated preference of each topic | a question of a topic that nothing was tuned on | four answers |
| ukpconvarg | debate -> the argument that convinced more | debate | two arguments |
| movielens | film -> what they thought of it | the films rated last | five ratings in words, MAE |

The loaders below them, with licences and splits: `simulations.studies.personal_fleet`, `simulations.datasets`,
`simulations.choices.data`. Judges without a preference in a pair (a tie) are not asked about it; ratings of half a star
are rounded up. Nothing here is drawn from what is held out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from protocol.errors import PenchantError
from simulations.bench.preferences import TUNING_TOPICS, mixed_people
from simulations.benchmarks.form import Benchmark, Query, Task, cut, history_of, numbered_day, shortened
from simulations.choices.data import FEWEST_JUDGEMENTS, Item, load_ukpconvarg
from simulations.datasets.movielens import Row, read_movielens
from simulations.datasets.prefeval import PreferenceQuestion, load_prefeval
from simulations.people import Message, Person
from simulations.studies.personal_fleet import HistorySplit, load_groups

# In words, worst first: on people for tuning the model alone answers numerals with "1" throughout, and words nearly
# always with the last, which errs by half as much.
RATINGS: Final = ("I hated it.", "I did not like it.", "It was all right.", "I liked it.", "I loved it.")
TUNING: Final = 4  # people on whom prompts were chosen, of every set
_HISTORY: Final = 60  # texts, judgements or ratings that a device holds at most, the newest
_TEXT_WORDS: Final = 36  # of a post or passage, behind 10 that are its cue
_QUERIES: Final = {"writing": 4, "ukpconvarg": 10, "movielens": 15}


def writing(folder: Path, source: str, people: int, seed: int) -> Benchmark:
    """Blogs or novels (``source``): people with long histories, their newest texts held out."""
    split = HistorySplit(
        source,
        judged=people,
        tuning=TUNING,
        fleet=0,
        history=_HISTORY,
        held_out=_QUERIES["writing"],
        max_words=_TEXT_WORDS,
        seed=seed,
    )
    groups = load_groups(folder, split)

    def tasks(persons: Sequence[Person]) -> tuple[Task, ...]:
        return tuple(
            Task(one.id, one.train_messages, tuple(Query(row.cue, row.text) for row in one.test_messages))
            for one in persons
        )

    return Benchmark(source, "writing", "nats", tasks(groups.judged), tasks(groups.tuning))


def prefeval(folder: Path, people: int, seed: int) -> Benchmark:
    """People with one preference of every topic, asked one question of every topic that nothing was tuned on (those
    for tuning: of the others)."""
    topics = load_prefeval(folder / "prefeval")
    known = frozenset(list(topics)[:TUNING_TOPICS])
    tasks = [
        _asked(number, person, known if number < TUNING else topics.keys() - known)
        for number, person in enumerate(mixed_people(topics, seed))
    ]
    return Benchmark("prefeval", "advice", "accuracy", *cut("prefeval", tasks, people, TUNING))


def _asked(number: int, person: Sequence[PreferenceQuestion], topics: AbstractSet[str]) -> Task:
    """What one person holds, and is asked about ``topics``; the options in an order of their own."""
    history = tuple(Message(numbered_day(place), "", row.preference) for place, row in enumerate(person))
    queries = []
    for place, row in enumerate(person):
        if row.topic not in topics or len(set(row.options)) < len(row.options):
            continue
        options = random.Random(f"prefeval {number} {place}").sample(row.options, len(row.options))
        queries.append(Query(row.question, row.options[0], tuple(options), frozenset({place})))
    return Task(f"prefeval-{number}", history, tuple(queries))


def ukpconvarg(folder: Path, people: int, seed: int) -> Benchmark:
    """Judges with 40 judgements or more: what convinced them, and the pairs they judged last."""
    known = load_ukpconvarg(folder, seed)
    judges = [one for one in known.people if len(one.pairs) + len(one.held_out_pairs) >= FEWEST_JUDGEMENTS]
    random.Random(f"ukpconvarg {seed}").shuffle(judges)
    tasks = []
    for judge in judges:
        kept = [
            (known.items[first if won else second])
            for (first, second), won in zip(judge.pairs.tolist(), judge.outcomes.tolist(), strict=True)
            if won != 0.5
        ]
        history = history_of([("", argument_request(item[0]), shortened(item[1])) for item in kept], _HISTORY)
        queries = _argument_queries(known.items, judge.held_out_pairs, judge.held_out_outcomes)
        if history and queries:
            tasks.append(Task(judge.user, history, queries[: _QUERIES["ukpconvarg"]]))
    return Benchmark("ukpconvarg", "writing", "accuracy", *cut("ukpconvarg", tasks, people, TUNING))


def argument_request(debate: str) -> str:
    """The request that an argument of a debate answers."""
    return f"Give a convincing argument. {debate}"


def _argument_queries(items: Sequence[Item], pairs: NDArray[Any], outcomes: NDArray[Any]) -> tuple[Query, ...]:
    queries = []
    for (first, second), won in zip(pairs.tolist(), outcomes.tolist(), strict=True):
        options = shortened(items[first][1]), shortened(items[second][1])
        if won != 0.5 and options[0] != options[1]:
            queries.append(Query(argument_request(items[first][0]), options[0 if won else 1], options))
    return tuple(queries)


def movielens(folder: Path, people: int, seed: int) -> Benchmark:
    """Users with enough ratings: their newest before the last fifteen, and those."""
    films, rated, _ = read_movielens(folder / "movielens")
    users, held_out = sorted(rated, key=int), _QUERIES["movielens"]
    random.Random(f"movielens {seed}").shuffle(users)
    tasks = []
    for user in users:
        own = sorted(rated[user])
        if len(own) < _HISTORY + held_out:
            continue
        rows = [("", rating_request(films[place]), as_rating(rating)) for _, place, rating in own]
        history = history_of(rows[:-held_out], _HISTORY)
        queries = tuple(Query(cue, rating, RATINGS) for _, cue, rating in rows[-held_out:])
        tasks.append(Task(f"film-{user}", history, queries))
    return Benchmark("movielens", "writing", "mae", *cut("movielens", tasks, people, TUNING), labels=RATINGS)


def rating_request(film: Row) -> str:
    """The request that a rating answers."""
    kinds = film["genres"].replace("|", ", ").lower()
    return f"What did you think of the film {film['title']} ({kinds})?"


def as_rating(stars: float) -> str:
    """The words for a number of stars, half stars rounded up."""
    if not 0.5 <= stars <= 5.0:
        raise PenchantError("a rating of MovieLens lies between 0.5 and 5: fetch MovieLens again")
    return RATINGS[math.ceil(stars) - 1]
