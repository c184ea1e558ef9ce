"""The entities of a person's memories: people, places, things and interests, counted; and nothing else of the text.

What is kept is an aggregate: a name, a kind, and the days and ids of the memories that mention it. No sentence is
copied, so prompts can be enriched with interests without a log of what was said. (Entity-centric store of aggregate
projections: "Knowledge-Augmented Large Language Models for Personalized Contextual Query Suggestion".)

Entities are read by fixed rules: the values of claims (homes, names, possessions, interests), spans of capitalised
words that do not merely begin a sentence, and nouns after "my", "our" or "the" that come back in several memories.
A mention weighs 2^(-age / 180 days), so that `top` shows what matters now.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, Literal

from edge_runtime.memory.claims import Claim, claims_of
from edge_runtime.memory.statements import MemoryItem, iso_date
from edge_runtime.store.vault import Vault

Kind = Literal["person", "pet", "place", "organisation", "thing", "language", "interest", "name", "topic"]
HALF_LIFE_DAYS: Final = 180.0
_LEAST_MENTIONS: Final = 3  # memories in which a plain noun must occur to be an entity
_STEPS: Final = (
    "CREATE TABLE entities (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, "
    "kind TEXT NOT NULL)",
    "CREATE TABLE entity_mentions (entity_id INTEGER NOT NULL REFERENCES entities (id) ON DELETE CASCADE, "
    "memory_id INTEGER NOT NULL, day TEXT NOT NULL, PRIMARY KEY (entity_id, memory_id)) WITHOUT ROWID",
)
_KIND_OF_ATTRIBUTE: Final[dict[str, Kind]] = {
    "lives_in": "place", "born_in": "place", "grew_up_in": "place", "comes_from": "place", "hometown": "place",
    "works_at": "organisation", "speaks": "language", "owns": "thing", "likes": "interest", "prefers": "interest",
    "plays": "interest", "collects": "interest", "learning": "interest", "studies": "interest", "allergic_to": "topic",
    "diet": "topic", "works_as": "topic",
}  # fmt: skip
# The more telling kind of two wins when the same name is read twice.
_STRENGTH: Final[tuple[Kind, ...]] = (
    "name", "topic", "thing", "interest", "language", "organisation", "place", "person", "pet",
)  # fmt: skip
_PET = re.compile(r"(?:dog|puppy|pup|cat|kitten|rabbit|hamster|parrot|horse|pony|greyhound|ferret|hen|goat)'s name$")
_SPAN = re.compile(r"(?:[A-Z][\w'’-]*[\w])(?: (?:of |de |the |van |von |la )?[A-Z][\w'’-]*[\w])*")
_NOUN = re.compile(r"\b(?:my|our|the) ([a-z]{4,})\b")
_SENTENCE_START = re.compile(r"(?:\A|[.!?…:]\s+|\n\s*|[\"“‘(]\s*)\Z")
_NO_NAMES = (
    "i i'm i've i'll i'd monday tuesday wednesday thursday friday saturday sunday january february march april "
    "may june "
    "july august september october november december mr mrs ms dr ok pm am tv dear mum dad mom thanks love plan "
    "hi hello"
)
_NOT_ENTITIES: Final = frozenset(_NO_NAMES.split())
_PLAIN = (
    "same other whole first last next best only thing things time times week year month morning evening night "
    "moment way "
    "rest back front middle side part kind sort people other idea fact point question answer reason number "
    "problem own "
    "right left wrong left hand hands head life name mind"
)
_NO_NOUNS: Final = frozenset(_PLAIN.split())


@dataclass(frozen=True)
class Entity:
    """`count` memories mention it, the last on `last_seen` (ISO day); `weight` is the count with time decay."""

    id: int
    name: str
    kind: Kind
    count: int
    weight: float
    last_seen: str
    memory_ids: tuple[int, ...]


class Entities:
    """The entities of one device's owner."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        vault.migrate("entities", _STEPS)

    def observe(self, items: Iterable[MemoryItem]) -> int:
        """Counts the entities of the owner's statements among `items`; a memory that was counted before counts once.
        Returns how many mentions are new. Plain nouns become entities if at least three of `items` hold them."""
        own = [item for item in items if item.kind == "statement" and not item.speaker]
        nouns = Counter(noun for item in own for noun in _nouns(item.text))
        new = 0
        with self._vault.transaction() as connection:
            known = {key for (key,) in connection.execute("SELECT key FROM entities")}
            for item in own:
                found = _entities_of(item.text)
                for noun in _nouns(item.text):
                    if nouns[noun] >= _LEAST_MENTIONS or noun in known:
                        found.setdefault(noun, (noun, "topic"))
                for key, (name, kind) in found.items():
                    new += self._mention(key, name, kind, item)
        return new

    def top(self, n: int, as_of: str | None = None) -> list[Entity]:
        """The `n` entities with the highest weight on a day (ISO; today if None), from what was said by then."""
        found = sorted(self._listing(iso_date(as_of)), key=lambda entity: (-entity.weight, entity.name))
        return found[:n]

    def for_question(self, text: str) -> list[Entity]:
        """The entities that `text` names, heaviest first."""
        asked = f" {_key(text)} "
        found = [entity for entity in self._listing(iso_date(None)) if f" {_key(entity.name)} " in asked]
        return sorted(found, key=lambda entity: (-entity.weight, entity.name))

    def forget_traces(self, item_ids: Collection[int], is_trace: Callable[[str], bool]) -> int:
        """Drops the mentions in these memories, and the entities that have none left or are traces; how many went."""
        with self._vault.transaction() as connection:
            connection.execute(
                "DELETE FROM entity_mentions WHERE memory_id IN (SELECT value FROM json_each(?))",
                (json.dumps(sorted(item_ids)),),
            )
            traces = [(row,) for row, name in connection.execute("SELECT id, name FROM entities") if is_trace(name)]
            connection.executemany("DELETE FROM entities WHERE id = ?", traces)
            empty = "DELETE FROM entities WHERE id NOT IN (SELECT entity_id FROM entity_mentions)"
            return len(traces) + int(connection.execute(empty).rowcount)

    def forget_all(self) -> int:
        """Drops every entity; how many."""
        with self._vault.transaction() as connection:
            connection.execute("DELETE FROM entity_mentions")
            return int(connection.execute("DELETE FROM entities").rowcount)

    def _mention(self, key: str, name: str, kind: Kind, item: MemoryItem) -> int:
        connection = self._vault.connection
        connection.execute("INSERT OR IGNORE INTO entities (key, name, kind) VALUES (?, ?, ?)", (key, name, kind))
        row, held = connection.execute("SELECT id, kind FROM entities WHERE key = ?", (key,)).fetchone()
        if _STRENGTH.index(kind) > _STRENGTH.index(held):
            connection.execute("UPDATE entities SET kind = ?, name = ? WHERE id = ?", (kind, name, row))
        cursor = connection.execute(
            "INSERT OR IGNORE INTO entity_mentions VALUES (?, ?, ?)", (row, item.id, item.said_at)
        )
        return int(cursor.rowcount)

    def _listing(self, day: str) -> list[Entity]:
        today = date.fromisoformat(day).toordinal()
        mentions: dict[tuple[int, str, Kind], list[tuple[str, int]]] = defaultdict(list)
        rows = self._vault.connection.execute(
            "SELECT e.id, e.name, e.kind, m.day, m.memory_id FROM entities e JOIN entity_mentions m "
            "ON m.entity_id = e.id WHERE m.day <= ? ORDER BY m.day, m.memory_id",
            (day,),
        )
        for row, name, kind, said, memory_id in rows:
            mentions[row, name, kind].append((said, memory_id))
        return [
            Entity(row, name, kind, len(seen), _weight(seen, today), seen[-1][0], tuple(id_ for _, id_ in seen))
            for (row, name, kind), seen in mentions.items()
        ]


def _weight(seen: Sequence[tuple[str, int]], today: int) -> float:
    return sum(float(2.0 ** (-(today - date.fromisoformat(said).toordinal()) / HALF_LIFE_DAYS)) for said, _ in seen)


def _entities_of(text: str) -> dict[str, tuple[str, Kind]]:
    """Key to (name, kind) of the entities of a text: of its claims, then of its capitalised spans."""
    found: dict[str, tuple[str, Kind]] = {}
    for claim in claims_of(text):
        kind = _kind_of(claim)
        name = re.sub(r"^(?:an?|the|my|our|to|two|three|four|five) ", "", claim.value)
        if kind and 0 < len(name.split()) <= 4:
            found.setdefault(_key(name), (name, kind))
    for span in _SPAN.finditer(text):
        name = re.sub(r"['’]s$", "", span[0])
        if _SENTENCE_START.search(text, 0, span.start()):
            name = name.partition(" ")[2]  # its first word may be capitalised for no other reason
        if not name or _key(name) in _NOT_ENTITIES:
            continue
        if name.isupper() and len(name) > 3:  # shouting
            continue
        found.setdefault(_key(name), (name, "name"))
    return found


def _kind_of(claim: Claim) -> Kind | None:
    if claim.attribute.endswith("'s name"):
        return "pet" if _PET.search(claim.attribute) else "person"
    if claim.subject or not claim.polarity:
        return None
    return _KIND_OF_ATTRIBUTE.get(claim.attribute)


def _nouns(text: str) -> set[str]:
    return {noun for noun in _NOUN.findall(text) if noun not in _NO_NOUNS}


def _key(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))
