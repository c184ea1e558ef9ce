"""The fleet's ledger: one event per unmasked sum, written in the transaction that opens the unmask stage.

So the spend is on disk before the first request that could reveal a sum is sent, whatever happens afterwards;
a round that then fails keeps its entry (its sum may have been one reply away). Composition is over every row
of the store: runs of the same people add up. Unit, neighbours and assumptions are those of
`protocol.accounting`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from protocol.accounting import Accountant, PrivacyEvent
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan
from server.store import RoundRow, Store


@dataclass(frozen=True)
class Spend:
    """One entry: which attempt at which round of which run, and the accountant's event."""

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

    def accountant(self) -> Accountant:
        """Everything spent so far."""
        return Accountant(spend.event for spend in self.spends())

    def epsilon(self, delta: float) -> float:
        """Total epsilon of everything that this store has released."""
        return self.accountant().epsilon(delta)

    def epsilon_after(self, task: RoundTask, delta: float) -> float:
        """Total epsilon if `task` were released too."""
        return self.accountant().with_event(RoundPlan.of(task).privacy_event()).epsilon(delta)
