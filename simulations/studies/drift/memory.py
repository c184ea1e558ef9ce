"""People whose facts change at a known session, and what their device's memory and profile still say.

A person states eight facts in the first sessions (where they live, a favourite dish ...). Before session `CHANGE` six
of them become others, all at once; the person mentions the new ones one by one in the sessions after that. After every
session each fact is asked for. They mention changes *plainly*, in the words of the first time, which the product's
rules for claims can read, or *freely*, in words that were written down before it was looked at whether they can. All
values are invented. What answers:

    no update     the memory as it was before the change
    passages      all texts as passages of chats: found by words, meaning and recency, and never closed
    memory        the product's memory: a later statement closes the one that it contradicts
    memory, 3     the same, three memories: what an answer could be made of
    profile       the attributes that the product's profile holds for the day

A question is answered by what is found first, or is in the first three. Stale: it says what was so before the change
and not what is so now.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from edge_runtime.memory.memory import Memory, TextEmbedder
from edge_runtime.memory.statements import Statement
from edge_runtime.profile.profile import Profile
from edge_runtime.store.vault import Vault

WAYS: Final = ("no update", "passages", "memory", "memory, 3", "profile")
SESSIONS, CHANGE = 12, 5  # the change is before session number CHANGE, from 0
STATED_PER_SESSION: Final = 2
UNCHANGED: Final = 2
_FIRST_DAY: Final = date(2025, 1, 6)


@dataclass(frozen=True)
class Topic:
    """A kind of fact: the profile's name for it, how it is said, how a change of it is said freely, how it is asked,
    and its values."""

    attribute: str
    said: str
    freely: str
    asked: str
    values: tuple[str, ...]


TOPICS: Final = (
    Topic(
        "lives_in",
        "I live in {}.",
        "The boxes are unpacked, {} is home now.",
        "Where do I live?",
        ("Lisbon", "Oslo", "Tartu", "Graz"),
    ),
    Topic(
        "works_as",
        "I work as a {}.",
        "I have started over as a {}.",
        "What do I work as?",
        ("baker", "nurse", "surveyor", "tailor"),
    ),
    Topic(
        "favourite tea",
        "My favourite tea is {}.",
        "It is {} tea for me these days.",
        "What is my favourite tea?",
        ("jasmine", "mint", "oolong"),
    ),
    Topic(
        "favourite sport",
        "My favourite sport is {}.",
        "I have taken to {}, the best sport there is.",
        "What is my favourite sport?",
        ("rowing", "judo", "tennis"),
    ),
    Topic(
        "favourite dish",
        "My favourite dish is {}.",
        "Nothing on my plate beats {} now.",
        "What is my favourite dish?",
        ("lentils", "dumplings", "pie"),
    ),
    Topic(
        "favourite season",
        "My favourite season is {}.",
        "I have come round to {} as the best season.",
        "What is my favourite season?",
        ("spring", "autumn"),
    ),
    Topic(
        "favourite colour",
        "My favourite colour is {}.",
        "I wear nothing but {} lately, no other colour.",
        "What is my favourite colour?",
        ("green", "ochre", "blue"),
    ),
    Topic(
        "favourite band",
        "My favourite band is {}.",
        "I hear {} more than any other band now.",
        "What is my favourite band?",
        ("Arborea", "Kelp", "Nine Oaks"),
    ),
)


@dataclass(frozen=True)
class Life:
    """Values before and after the change, by topic, and what is said in each session: (topic, text)."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    sessions: tuple[tuple[tuple[int, str], ...], ...]

    def truth(self, session: int) -> tuple[str, ...]:
        """What is so in a session."""
        return self.after if session >= CHANGE else self.before


def draw_life(seed: int, *, freely: bool) -> Life:
    """A person who mentions changes plainly or freely; else the same one."""
    generator = random.Random(f"life {seed}")
    values = [generator.sample(topic.values, 2) for topic in TOPICS]
    order = generator.sample(range(len(TOPICS)), len(TOPICS))
    changed = generator.sample(order, len(TOPICS) - UNCHANGED)
    before = tuple(first for first, _ in values)
    after = tuple(second if topic in changed else first for topic, (first, second) in enumerate(values))
    sessions: list[tuple[tuple[int, str], ...]] = [() for _ in range(SESSIONS)]
    for place in range(0, len(order), STATED_PER_SESSION):
        told = order[place : place + STATED_PER_SESSION]
        sessions[place // STATED_PER_SESSION] = tuple(
            (topic, TOPICS[topic].said.format(before[topic])) for topic in told
        )
    for place, topic in enumerate(changed):
        form = TOPICS[topic].freely if freely else TOPICS[topic].said
        sessions[CHANGE + place] = ((topic, form.format(after[topic])),)
    return Life(before, after, tuple(sessions))


def errors_of(life: Life, embedder: TextEmbedder) -> dict[str, list[tuple[float, float]]]:
    """Way -> after every session: (share of the facts stated so far that is not answered by what is so now, share that
    is answered by what was so before the change)."""
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with (
        tempfile.TemporaryDirectory() as home,
        tempfile.TemporaryDirectory() as other,
        Vault.open(Path(home), bytes(32)) as vault,
        Vault.open(Path(other), bytes(32)) as plain,
    ):
        memory, profile, passages = Memory(vault, embedder), Profile(vault), Memory(plain, embedder)
        stated: set[int] = set()
        frozen: dict[int, str] = {}
        for session, told in enumerate(life.sessions):
            day = (_FIRST_DAY + timedelta(weeks=session)).isoformat()
            texts = [text for _, text in told]
            memory.remember_many(Statement(text, said_at=day) for text in texts)
            passages.remember_many(
                Statement(text, said_at=day, kind="passage", document=f"chat {session}", position=place)
                for place, text in enumerate(texts)
            )
            profile.rebuild(memory)
            stated |= {topic for topic, _ in told}
            held = {one.name: one.value for one in profile.attributes(day) if one.until is None or one.until > day}
            answers = {
                "memory": {topic: _recalled(memory, topic, day, 1) for topic in stated},
                "memory, 3": {topic: _recalled(memory, topic, day, 3) for topic in stated},
                "passages": {topic: _recalled(passages, topic, day, 1) for topic in stated},
                "profile": {topic: held.get(TOPICS[topic].attribute, "") for topic in stated},
            }
            if session < CHANGE:
                frozen = answers["memory"]
            for way in WAYS:
                given = answers.get(way, frozen)
                found[way].append(_shares(life, session, [(topic, given[topic]) for topic in sorted(stated)]))
    return found


def _recalled(memory: Memory, topic: int, day: str, k: int) -> str:
    return "\n".join(one.item.text for one in memory.recall(TOPICS[topic].asked, k=k, now=day))


def _shares(life: Life, session: int, given: Sequence[tuple[int, str]]) -> tuple[float, float]:
    """Wrong and stale among answers that hold a value, or the value itself."""
    wrong = stale = 0
    for topic, answer in given:
        says_so = _says(answer, life.truth(session)[topic])
        wrong += not says_so
        stale += not says_so and session >= CHANGE and _says(answer, life.before[topic])
    return wrong / len(given), stale / len(given)


def _says(answer: str, value: str) -> bool:
    return value.casefold() in answer.casefold()
