"""From dated claims to what held when: the episodes of a profile and how sure each is.

An episode is one value of one attribute over one span of time. A newer claim closes an older one that it
contradicts; both stay, with their times. How probable an episode is on a day follows from its evidence:

    support = 1 - prod_i (1 - q w_i)    over the statements that say so
    against = 1 - prod_j (1 - q w_j h_j)  over those that deny it
    p = support (1 - against)

with q = 0.9 for one fresh statement (a little under the measured precision of reading claims), w = 2^(-age / H) and
h = 1/2 for a denial older than the latest support (the owner changed their mind back), else 1. H is 5 years, 10
years for what has one value at a time (a home stays until the next one is named), 2 years for habits, 90 days for
plans; what does not change in a life (`_ENDURING`) does not age. What the owner entered has probability 1 as long
as it holds. (Construct and update of a probabilistic profile: "User Profile with Large Language Models".)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Final, Literal

from edge_runtime.memory.claims import Claim, single_valued

Source = Literal["you", "memory"]
FRESH: Final = 0.9
_HALF_LIFE_DAYS: Final = {"plans": 90.0, "habit": 2 * 365.25}
_USUAL_HALF_LIFE: Final = 5 * 365.25
_SINGLE_HALF_LIFE: Final = 10 * 365.25
_ENDURING: Final = frozenset(
    {"name", "born_in", "born_on", "birthday", "grew_up_in", "comes_from", "nationality", "allergic_to", "speaks",
     "mother tongue", "native language", "first language", "hometown"}
)  # fmt: skip
# An attribute and what its denial is called; other denials only close what was said before.
_DENIED: Final = {
    "likes": "dislikes",
    "eats": "does_not_eat",
    "drinks": "does_not_drink",
    "smokes": "does_not_smoke",
    "speaks": "does_not_speak",
    "owns": "does_not_own",
}
_AFFIRMED: Final = {denial: name for name, denial in _DENIED.items()}


@dataclass(frozen=True)
class Evidence:
    """One statement for (`holds`) or against an episode: its ISO day and the memory it stands in (0: entered by the
    owner without a memory); `ends` is the day from which the memory is no longer valid."""

    day: str
    memory_id: int
    holds: bool = True
    ends: str | None = None


@dataclass(frozen=True)
class Observation:
    """Something said on a day: `name` has `value` (`affirmed`), or no longer, or (`past`) had it once. `entry` is the
    row of an owner's own entry, None for a memory."""

    name: str
    value: str
    evidence: Evidence
    affirmed: bool = True
    past: bool = False
    entry: int | None = None


@dataclass(frozen=True)
class Episode:
    """`value` of `name` from `since` (None: unknown) until `until` (exclusive; None: still), ISO days."""

    name: str
    value: str
    since: str | None
    until: str | None = None
    source: Source = "memory"
    evidence: tuple[Evidence, ...] = field(default=())
    entry: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.name.casefold(), self.value.casefold()

    def holds_on(self, day: str) -> bool:
        return self.since is not None and self.since <= day and (self.until is None or day < self.until)


def observed(claim: Claim, day: str, memory_id: int, *, ends: str | None = None) -> list[Observation]:
    """What a claim of the owner about themself says of their attributes; nothing for a claim about somebody else."""
    if claim.subject:
        return []
    value = claim.value or "yes"
    seen = [
        Observation(
            claim.attribute, value, Evidence(day, memory_id, ends=ends), claim.polarity, claim.temporal == "past"
        )
    ]
    if not claim.polarity and claim.temporal == "now" and claim.attribute in _DENIED:
        seen.append(Observation(_DENIED[claim.attribute], value, Evidence(day, memory_id, ends=ends)))
    return seen


def episodes_of(observations: Iterable[Observation]) -> list[Episode]:
    """The episodes that follow from all `observations`, whatever their order: closed ones first, by their end."""
    current: dict[tuple[str, str], Episode] = {}
    closed: list[Episode] = []

    def close(episode: Episode, evidence: Evidence) -> None:
        against = replace(evidence, holds=False)
        closed.append(replace(episode, until=evidence.day, evidence=(*episode.evidence, against)))
        del current[episode.key]

    for seen in sorted(observations, key=_order):
        name, key = seen.name.casefold(), (seen.name.casefold(), seen.value.casefold())
        if seen.past or not seen.affirmed:
            if key in current:
                close(current[key], seen.evidence)
            elif seen.past:
                both = (seen.evidence, replace(seen.evidence, holds=False))  # it was so, and is no longer
                closed.append(Episode(seen.name, seen.value, None, seen.evidence.day, evidence=both))
            continue
        denial = _DENIED.get(name) or _AFFIRMED.get(name)
        if denial and (denial, key[1]) in current:
            close(current[denial, key[1]], seen.evidence)
        if single_valued(seen.name):
            for other in [other for other in current.values() if other.key[0] == name and other.key != key]:
                close(other, seen.evidence)
        held = current.get(key) or Episode(seen.name, seen.value, seen.evidence.day)
        if seen.entry is not None:
            held = replace(held, name=seen.name, value=seen.value, source="you", entry=seen.entry)
        current[key] = replace(held, evidence=(*held.evidence, seen.evidence))
    return [*closed, *(_expired(episode) for episode in current.values())]


def probability(episode: Episode, day: str) -> float:
    """How probable it is that `episode` holds on `day` (ISO), as the formula above says."""
    if episode.source == "you" and episode.holds_on(day):
        return 1.0
    known = [evidence for evidence in episode.evidence if evidence.day <= day]
    latest = max((evidence.day for evidence in known if evidence.holds), default="")
    support, against = [], []
    for evidence in known:
        weight = FRESH * _weight(episode.name, evidence.day, day)
        if evidence.holds:
            support.append(weight)
        else:
            against.append(weight if evidence.day >= latest else weight / 2)
    return _any_of(support) * (1.0 - _any_of(against))


def _any_of(weights: Sequence[float]) -> float:
    remaining = 1.0
    for weight in weights:
        remaining *= 1.0 - weight
    return 1.0 - remaining


def _weight(name: str, said: str, day: str) -> float:
    if name in _ENDURING or name.endswith("'s name"):
        return 1.0
    age = max(0, date.fromisoformat(day).toordinal() - date.fromisoformat(said).toordinal())
    usual = _SINGLE_HALF_LIFE if single_valued(name) else _USUAL_HALF_LIFE
    return float(2.0 ** (-age / _HALF_LIFE_DAYS.get(name, usual)))


def _order(seen: Observation) -> tuple[str, bool, int]:
    """By day; on the same day the owner's own entry is the last word."""
    return seen.evidence.day, seen.entry is not None, seen.evidence.memory_id


def _expired(episode: Episode) -> Episode:
    """Closed if no memory that says so is valid any longer."""
    ends = [evidence.ends for evidence in episode.evidence]
    if episode.source == "you" or None in ends:
        return episode
    return replace(episode, until=max(end for end in ends if end is not None))
