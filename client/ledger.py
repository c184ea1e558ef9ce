"""The device's own ledger: all that ever left it and the privacy it cost, checked before a contribution.

An entry is written before its upload, in the transaction that stores the reply, so a crash may leave an entry
without an upload but never an upload without an entry. The device trusts no server for its epsilon: it
computes the event from the task that it itself carried out. Unit: one person, all their contributions;
neighbours: zero-out; no amplification by sampling is claimed. The epsilon holds if at least
`minimum_survivors` of the round's devices add their noise honestly. It composes every entry, whichever run or fleet it
was for: budgets are a life's, not a run's.

The ledger also keeps the spacing that a fleet promises (`RoundTask.spacing`): it knows in which round of a run this
person's last participation started, so whether a round goes on with it (its age), starts another, or comes too soon.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache

from edge_runtime.device import DeviceSettings
from edge_runtime.store.vault import Vault
from protocol.accounting import Accountant, PrivacyEvent
from protocol.errors import BudgetExceeded, ProtocolError
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan

STEPS = (
    """CREATE TABLE ledger (
        entry INTEGER PRIMARY KEY, written TEXT NOT NULL, run_id TEXT NOT NULL, round INTEGER NOT NULL,
        attempt INTEGER NOT NULL, kind TEXT NOT NULL, size_bytes INTEGER NOT NULL,
        roster_size INTEGER NOT NULL, noise_multiplier REAL NOT NULL, delta REAL NOT NULL,
        event TEXT NOT NULL, task_digest TEXT NOT NULL, UNIQUE (run_id, round, attempt))""",
    # Rounds since the start of the participation that the entry belongs to.
    "ALTER TABLE ledger ADD COLUMN age INTEGER NOT NULL DEFAULT 0",
)


@dataclass(frozen=True)
class LedgerEntry:
    """One contribution: `kind` was summed, `size_bytes` uploaded, `roster_size` devices took part."""

    written: str
    run_id: str
    round: int
    attempt: int
    kind: str
    size_bytes: int
    roster_size: int
    noise_multiplier: float
    delta: float
    event: str


@lru_cache(maxsize=256)
def composed_epsilon(events: tuple[PrivacyEvent, ...], delta: float) -> float:
    """Epsilon at `delta` of all events (cached: a fleet in one process asks the same of every device)."""
    repeats = Counter(events)  # rounds of one run are mostly alike: one event with a count costs as much as one
    return Accountant(replace(event, count=event.count * n) for event, n in repeats.items()).epsilon(delta)


class DeviceLedger:
    """The ledger in one device's vault."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        vault.migrate("ledger", STEPS)

    def entries(self) -> list[LedgerEntry]:
        """Every contribution, oldest first."""
        columns = "written, run_id, round, attempt, kind, size_bytes, roster_size, noise_multiplier, delta, event"
        rows = self._vault.connection.execute(f"SELECT {columns} FROM ledger ORDER BY entry")
        return [LedgerEntry(*row) for row in rows]

    def epsilon(self, delta: float) -> float:
        """What all contributions so far have spent together at `delta`."""
        return composed_epsilon(self._events(), delta)

    def age(self, task: RoundTask) -> int:
        """Age (`matrix_factorisation`) at which this device takes part: 0 starts a participation, more goes on with it.

        Raises ProtocolError if the round comes sooner after the last start than the task's spacing promises, or
        before it.
        """
        row = self._vault.connection.execute("SELECT age FROM ledger WHERE task_digest=?", (task.digest(),)).fetchone()
        if row is not None:
            return int(row[0])
        (start,) = self._vault.connection.execute(
            "SELECT max(round) FROM ledger WHERE run_id=? AND age=0", (task.run_id,)
        ).fetchone()
        if start is None or task.round - start >= task.spacing:
            return 0
        age = int(task.round - start)
        if 0 <= age < len(task.strategy):
            return age
        raise ProtocolError(
            f"this device's part of run {task.run_id} started in round {start}; the next may start "
            f"in round {start + task.spacing}, not {task.round}"
        )

    def refuse_overspending(self, task: RoundTask, settings: DeviceSettings) -> None:
        """Raise BudgetExceeded if this task's contribution would take the owner's total above their budget, and
        ProtocolError if it comes too soon.

        A task that is in the ledger already is allowed: its cost has been counted.
        """
        if self._written(task):
            return
        event = RoundPlan.of(task).privacy_event(age=self.age(task))
        after = composed_epsilon((*self._events(), event), settings.delta)
        if after > settings.epsilon_budget:
            spent = "no noise" if math.isinf(after) else f"epsilon {after:.2f}"
            raise BudgetExceeded(
                f"this round would bring the total to {spent} at delta {settings.delta:g}, "
                f"the owner allows {settings.epsilon_budget:g}"
            )

    def write(self, task: RoundTask, *, size_bytes: int, roster_size: int) -> None:
        """Enter a contribution, before its upload; the same (run, round, attempt) is entered once."""
        age = self.age(task)
        event = json.dumps(asdict(RoundPlan.of(task).privacy_event(age=age)))
        self._vault.connection.execute(
            "INSERT INTO ledger (written, run_id, round, attempt, kind, size_bytes, roster_size, "
            "noise_multiplier, delta, event, task_digest, age) VALUES (?,?,?,?,?,?,?,?,?,?,?,?) "
            "ON CONFLICT (run_id, round, attempt) DO NOTHING",
            (
                datetime.now(UTC).isoformat(timespec="seconds"), task.run_id, task.round, task.attempt,
                task.kind, size_bytes, roster_size, task.noise_multiplier, task.delta, event, task.digest(),
                age,
            ),
        )  # fmt: skip

    def _written(self, task: RoundTask) -> bool:
        # By digest: another task under the same (run, round, attempt) must not ride on this one's entry.
        row = self._vault.connection.execute("SELECT 1 FROM ledger WHERE task_digest=?", (task.digest(),)).fetchone()
        return row is not None

    def _events(self) -> tuple[PrivacyEvent, ...]:
        rows = self._vault.connection.execute("SELECT event FROM ledger ORDER BY entry")
        return tuple(PrivacyEvent(**json.loads(text)) for (text,) in rows)
