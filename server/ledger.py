"""The fleet's ledger: one event per unmasked sum, written in the transaction that opens the unmask stage.

So the spend is on disk before the first request that could reveal a sum is sent, whatever happens afterwards;
a round that then fails keeps its entry (its sum may have been one reply away).

The unit is one person, so the ledger composes by person, over every run in the store: who was in which sum stands
beside each entry, and the fleet's epsilon is that of whoever has given most. Two runs of the same people add up; runs
of different people do not; where lists overlap, exactly those in both pay twice. A list of members may grow or shrink
without losing anybody's past. Who takes part is public and drawn without looking at anybody's data. Assumptions
otherwise are those of `protocol.accounting`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from protocol.accounting import Accountant, PrivacyEvent, squared_gaussian_mu
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan
from server.store import LedgerRow, RoundRow, Store


@dataclass(frozen=True)
class Spend:
    """One entry: which attempt at which round of which run, and the accountant's event (of whoever started there)."""

    run_id: str
    round: int
    attempt: int
    event: PrivacyEvent


class ServerLedger:
    """The ledger rows of one store, as an accountant."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def spend(self, row: RoundRow, task: RoundTask, survivors: Sequence[str]) -> None:
        """Write this round's event and open its unmask stage, which asks `survivors` (identities in hex)."""
        event = json.dumps(asdict(RoundPlan.of(task).privacy_event()))
        self._store.spend(row.round_key, event, len(survivors), survivors)

    def spends(self) -> tuple[Spend, ...]:
        """Every entry of every run in this store, in the order in which the rounds were opened."""
        return tuple(
            Spend(row.run_id, row.round, row.attempt, PrivacyEvent(**json.loads(row.event)))
            for row in self._store.ledger_rows()
        )

    def by_person(self) -> dict[str, tuple[PrivacyEvent, ...]]:
        """What each person (identity in hex) has spent in this store, equal events as one with a count."""
        spent: dict[str, Counter[PrivacyEvent]] = {}
        for _, task, ages in self._entries():
            plan = RoundPlan.of(task)
            events = [plan.privacy_event(age=age) for age in range(plan.strategy.bands)]
            for person, age in ages.items():
                spent.setdefault(person, Counter())[events[age]] += 1
        return {
            person: tuple(replace(event, count=event.count * times) for event, times in events.items())
            for person, events in spent.items()
        }

    def starts(self, run_id: str) -> dict[str, int]:
        """The round in which each person's last participation in this run started."""
        return {
            person: row.round
            for row, _, ages in self._entries()
            if row.run_id == run_id
            for person, age in ages.items()
            if age == 0
        }

    def starters(self, round_key: int) -> int:
        """How many people's participations started in this round."""
        return sum(list(ages.values()).count(0) for row, _, ages in self._entries() if row.round_key == round_key)

    def _entries(self) -> Iterator[tuple[LedgerRow, RoundTask, dict[str, int]]]:
        """Every entry with its task and the age of everybody in it."""
        starts: dict[tuple[str, str], int] = {}
        for row in self._store.ledger_rows():
            task, ages = RoundTask.from_bytes(self._store.round_row(row.round_key).task), {}
            for person in self._store.members(row.round_key, "unmask"):
                ages[person] = age_of(starts.get((person, row.run_id)), task)
                if ages[person] == 0:
                    starts[(person, row.run_id)] = row.round
            yield row, task, ages

    def accountant(self, people: Collection[str] | None = None) -> Accountant:
        """Everything spent so far by the one who has spent most (of `people`, if given)."""
        spent = self.by_person()
        of = [events for person, events in spent.items() if people is None or person in people]
        return Accountant(max(of, key=squared_gaussian_mu, default=()))

    def epsilon(self, delta: float) -> float:
        """Total epsilon of all that this store has ever released, for the person who gave most."""
        return self.accountant().epsilon(delta)

    def epsilon_after(self, task: RoundTask, delta: float, people: Collection[str] | None = None) -> float:
        """Total epsilon if `task` were released too, with `people` in it (None: whoever has spent most)."""
        after = self.accountant(people).with_event(RoundPlan.of(task).privacy_event())
        return max(self.epsilon(delta), after.epsilon(delta))


def age_of(start: int | None, task: RoundTask) -> int:
    """Age (`matrix_factorisation`) in this round of a person whose last participation started in round `start`.

    0 also for somebody whom the spacing should have kept out: an entry never counts for less than it may have cost.
    """
    age = 0 if start is None else task.round - start
    return age if 0 < age < len(task.strategy) else 0
