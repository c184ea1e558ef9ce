"""Cases with known answers for a judge: two answers, and which of them a person prefers.

| set | known of the person | the two answers | tuning |
|---|---|---|---|
| `prefeval` | the preference that matters | the one that respects it, one of the others | four topics |
| `ukpconvarg` | their last four judgements before | two arguments that they judged later | every fourth person |
| `village` | their last four choices in training | a held-out choice | every fourth person |

Ties are left out. Long texts are cut to their first words: what a small model's window holds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from protocol.errors import PenchantError
from simulations.bench.preferences import TUNING_TOPICS
from simulations.choices.data import ChoiceSet, Judgements, load_ukpconvarg, load_village_choices
from simulations.datasets.prefeval import load_prefeval
from simulations.studies.judge.judge import JudgeCase

SETS: Final = ("prefeval", "ukpconvarg", "village")
EXAMPLES: Final = 4
MOST_OF_A_PERSON: Final = 3
_EXAMPLE_WORDS: Final = 30
_ANSWER_WORDS: Final = 90
Cases = tuple[list[JudgeCase], list[JudgeCase]]  # tuning, reported


def load_cases(name: str, folder: Path, *, tuning: int, reported: int, seed: int = 0) -> Cases:
    """At most so many cases of a set in each part, drawn by ``seed``, no person in both."""
    if name == "prefeval":
        parts = _prefeval(folder / "prefeval", random.Random(f"judge {seed}"))
    else:
        parts = _choices(load_choices(name, folder))
    generator = random.Random(f"{name} {seed}")
    drawn = [
        generator.sample(part, min(count, len(part))) for part, count in zip(parts, (tuning, reported), strict=True)
    ]
    if min(map(len, drawn)) < 2:
        raise PenchantError(f"{name} has too few cases: ask for at least two of each part")
    return drawn[0], drawn[1]


def load_choices(name: str, folder: Path) -> ChoiceSet:
    """The choices that the cases of a set come from."""
    if name == "village":
        return load_village_choices()
    if name == "ukpconvarg":
        return load_ukpconvarg(folder)
    raise PenchantError(f"there are no cases {name!r}: take one of {', '.join(SETS)}")


def _prefeval(folder: Path, generator: random.Random) -> Cases:
    parts: Cases = ([], [])
    for number, (topic, rows) in enumerate(load_prefeval(folder).items()):
        for place, row in enumerate(rows):
            key = f"prefeval/{topic}/{place}"
            other = generator.choice(row.options[1:])
            case = JudgeCase(key, key, (row.preference,), row.question, row.options[0], other)
            parts[number >= TUNING_TOPICS].append(case)
    return parts


def _choices(choices: ChoiceSet) -> Cases:
    """People with examples and decided held-out choices, every fourth for tuning."""
    parts: Cases = ([], [])
    having = [person for person in choices.people if len(person.held_out_pairs) and len(person.pairs)]
    for number, person in enumerate(having):
        parts[number % 4 != 0].extend(_of_person(choices, person))
    return parts


def _of_person(choices: ChoiceSet, person: Judgements) -> list[JudgeCase]:
    decided = [(pair, outcome) for pair, outcome in zip(person.pairs, person.outcomes, strict=True) if outcome != 0.5]
    known = tuple(_example(choices, pair if won else pair[::-1]) for pair, won in decided[-EXAMPLES:])
    cases: list[JudgeCase] = []
    for place, (pair, outcome) in enumerate(zip(person.held_out_pairs, person.held_out_outcomes, strict=True)):
        if outcome == 0.5 or len(cases) == MOST_OF_A_PERSON:
            continue
        (question, preferred), (_, other) = (choices.items[item] for item in (pair if outcome else pair[::-1]))
        key = f"{choices.name}/{person.user}/{place}"
        texts = (_cut(text, _ANSWER_WORDS) for text in (preferred, other))
        cases.append(JudgeCase(key, person.user, known, question, *texts))
    return cases


def _example(choices: ChoiceSet, pair: Sequence[int]) -> str:
    """A choice in words, the item that won first."""
    (question, won), (_, lost) = (choices.items[item] for item in pair)
    return (
        f'Asked "{_cut(question, _EXAMPLE_WORDS)}", they preferred "{_cut(won, _EXAMPLE_WORDS)}" '
        f'to "{_cut(lost, _EXAMPLE_WORDS)}"'
    )


def _cut(text: str, words: int) -> str:
    found = text.split()
    return " ".join(found[:words]) + (" ..." if len(found) > words else "")
