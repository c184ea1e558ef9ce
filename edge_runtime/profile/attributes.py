"""The stored attributes of a profile: episodes in the encrypted file, settled again whenever something is entered or
read."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from edge_runtime.memory.statements import iso_date
from edge_runtime.profile.evidence import Episode, Evidence, Observation, Source, episodes_of, probability
from edge_runtime.store.vault import Vault

ATTRIBUTE_STEPS: Final = (
    "CREATE TABLE profile_attributes (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, value TEXT NOT NULL, "
    "since TEXT, until TEXT, source TEXT NOT NULL, entered_at TEXT, evidence TEXT NOT NULL)",
)


@dataclass(frozen=True)
class Attribute:
    """One value of one attribute: `since` (None: unknown) until `until` (exclusive; None: still), ISO days; `source` is
    "you" for the owner's own entry. `memory_ids` are the memories that say so, oldest first."""

    id: int
    name: str
    value: str
    probability: float
    since: str | None
    until: str | None
    source: Source
    memory_ids: tuple[int, ...]


class Attributes:
    """The attributes of one profile; what writes works inside a transaction of the vault."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def listing(self, as_of: str | None) -> list[Attribute]:
        """All, those that still hold first; with `as_of` (ISO date) those that held on that day, as known by then."""
        day = iso_date(as_of)
        rows = self.rows()
        if as_of:
            rows = {row: episode for row, episode in rows.items() if episode.holds_on(day)}
        found = [_attribute(row, episode, day, known_only=as_of is not None) for row, episode in rows.items()]
        return sorted(found, key=lambda found: (found.until is not None, found.name, -found.probability, found.id))

    def enter(self, name: str, value: str, memory_ids: Sequence[int]) -> int:
        """Adds the owner's own entry of today; `settle` closes what it contradicts. Returns its id."""
        today = iso_date(None)
        self._vault.connection.execute(
            "DELETE FROM profile_attributes WHERE source = 'you' AND lower(name) = lower(?) AND lower(value) = "
            "lower(?)",
            (name, value),
        )
        cursor = self._vault.connection.execute(
            "INSERT INTO profile_attributes (name, value, since, source, entered_at, evidence) VALUES (?, ?, ?, "
            "'you', ?, ?)",
            (name, value, today, today, json.dumps([asdict(Evidence(today, id_)) for id_ in memory_ids or (0,)])),
        )
        return int(cursor.lastrowid or 0)

    def remove(self, name: str, value: str) -> None:
        """Removes every episode of a value."""
        self._vault.connection.execute(
            "DELETE FROM profile_attributes WHERE lower(name) = lower(?) AND lower(value) = lower(?)", (name, value)
        )

    def rows(self) -> dict[int, Episode]:
        rows = self._vault.connection.execute(
            "SELECT id, name, value, since, until, source, evidence FROM profile_attributes ORDER BY id"
        )
        return {
            row: Episode(
                name, value, since, until, source, tuple(Evidence(**seen) for seen in json.loads(evidence)),
                row if source == "you" else None,
            )
            for row, name, value, since, until, source, evidence in rows
        }  # fmt: skip

    def _write(self, row: int | None, episode: Episode) -> None:
        values = (
            episode.name, episode.value, episode.since, episode.until, episode.source,
            json.dumps([asdict(evidence) for evidence in episode.evidence]),
        )  # fmt: skip
        if row is None:
            self._vault.connection.execute(
                "INSERT INTO profile_attributes (name, value, since, until, source, evidence) VALUES (?, ?, ?, "
                "?, ?, ?)",
                values,
            )
        else:
            self._vault.connection.execute(
                "UPDATE profile_attributes SET name = ?, value = ?, since = ?, until = ?, source = ?, evidence = ? "
                "WHERE id = ?",
                (*values, row),
            )

    def settle(self, observations: Iterable[Observation], removed: set[tuple[str, str]]) -> int:
        """Writes the episodes of all observations in place of what was there, keeping the ids of what stays."""
        wanted = [
            seen
            for seen in observations
            if seen.entry is not None or (seen.name.casefold(), seen.value.casefold()) not in removed
        ]
        old = self.rows()
        ids = {(*episode.key, episode.since): row for row, episode in old.items() if episode.entry is None}
        kept: set[int] = set()
        episodes = episodes_of(wanted)
        for episode in episodes:
            row = episode.entry if episode.entry is not None else ids.get((*episode.key, episode.since))
            if row is not None and row not in kept:
                kept.add(row)
                if old[row] != episode:
                    self._write(row, episode)
            else:
                self._write(None, episode)
        self._vault.connection.executemany(
            "DELETE FROM profile_attributes WHERE id = ?", [(row,) for row in old if row not in kept]
        )
        return len(episodes)

    def entries(self) -> list[Observation]:
        """The owner's own entries as observations of the day they were made."""
        rows = self._vault.connection.execute(
            "SELECT id, name, value, entered_at, evidence FROM profile_attributes WHERE source = 'you'"
        )
        entries = []
        for row, name, value, day, evidence in rows:
            own = [seen for seen in json.loads(evidence) if seen["day"] == day and seen["holds"]]
            memory_id = own[0]["memory_id"] if own else 0
            entries.append(Observation(name, value, Evidence(day, memory_id), entry=row))
        return entries

    def observations(self) -> list[Observation]:
        """What the stored episodes rest on, as observations: enough to settle them again without the memories."""
        seen = self.entries()
        entered = {entry.entry: (entry.evidence.day, entry.evidence.memory_id) for entry in seen}
        for row, episode in self.rows().items():
            past = episode.since is None
            said = [evidence for evidence in episode.evidence if entered.get(row) != (evidence.day, evidence.memory_id)]
            seen += [
                Observation(episode.name, episode.value, replace(evidence, holds=True), evidence.holds, past)
                for evidence in said
                if evidence.holds or not past
            ]
        return seen

    def forget_traces(self, forgotten: Collection[int], is_trace: Callable[[str], bool]) -> list[int]:
        """Drops what only these memories said and what repeats their words; the ids of what went. What they had closed
        opens again when the profile is rebuilt."""
        gone = []
        for row, episode in self.rows().items():
            left = tuple(evidence for evidence in episode.evidence if evidence.memory_id not in forgotten)
            if not any(evidence.holds for evidence in left) or is_trace(f"{episode.name} {episode.value}"):
                self._vault.connection.execute("DELETE FROM profile_attributes WHERE id = ?", (row,))
                gone.append(row)
            elif left != episode.evidence:
                self._write(row, replace(episode, evidence=left))
        return gone


def _attribute(row: int, episode: Episode, day: str, *, known_only: bool) -> Attribute:
    said = sorted({(seen.day, seen.memory_id) for seen in episode.evidence if seen.holds and seen.memory_id})
    ids = dict.fromkeys(memory_id for said_on, memory_id in said if not known_only or said_on <= day)
    return Attribute(
        row, episode.name, episode.value, round(probability(episode, day), 4), episode.since, episode.until,
        episode.source, tuple(ids),
    )  # fmt: skip
