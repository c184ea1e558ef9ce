"""How many steps the trainings of this device took: written down before each step, kept whatever becomes of the run.

A run is one row: its noise multiplier z (0: without privacy), its sampling rate q and the steps taken so far. A step
counts before its noise is drawn, so a crash leaves a step too many at most, never one too few; a resumed run draws the
same numbers for the same step (``training_run``), so a step done twice is counted once. Runs that were abandoned,
refused by the gate or forgotten stay: what came of them was on the device. No row says anything about a text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from client.opacus_epsilon import gaussian_epsilon
from edge_runtime.memory.statements import utc_now
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

STEPS = (
    "CREATE TABLE training_runs (id INTEGER PRIMARY KEY AUTOINCREMENT, started_at TEXT NOT NULL, "
    "noise_multiplier REAL NOT NULL, sampling_rate REAL NOT NULL, planned INTEGER NOT NULL, steps INTEGER NOT NULL)",
)


@dataclass(frozen=True)
class TrainingEntry:
    """One run: ``steps`` of ``planned`` taken with noise multiplier z (0: none) at sampling rate q."""

    id: int
    started_at: str
    noise_multiplier: float
    sampling_rate: float
    planned: int
    steps: int


class TrainingLedger:
    """The trainings of one device."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        vault.migrate("training", STEPS)

    def open_run(self, noise_multiplier: float, sampling_rate: float, planned: int) -> int:
        """A new row, with no step taken; its id."""
        cursor = self._vault.connection.execute(
            "INSERT INTO training_runs (started_at, noise_multiplier, sampling_rate, planned, steps) "
            "VALUES (?, ?, ?, ?, 0)",
            (utc_now(), noise_multiplier, sampling_rate, planned),
        )
        return int(cursor.lastrowid or 0)

    def take(self, run: int, step: int) -> None:
        """Write down that step number ``step`` (from 0) is about to be taken; PenchantError if there is no such run."""
        changed = self._vault.connection.execute(
            "UPDATE training_runs SET steps = max(steps, ?) WHERE id = ?", (step + 1, run)
        )
        if not changed.rowcount:
            raise PenchantError("the device's account of its trainings lacks this run: start it anew with --fresh")

    def entries(self) -> list[TrainingEntry]:
        """All runs, oldest first."""
        rows = self._vault.connection.execute(
            "SELECT id, started_at, noise_multiplier, sampling_rate, planned, steps FROM training_runs ORDER BY id"
        )
        return [TrainingEntry(*row) for row in rows]

    def epsilon(self, delta: float) -> float:
        """What one text lost to all runs together, were all that came of them shown (see ``composed_epsilon``)."""
        return composed_epsilon(self.entries(), delta)


def composed_epsilon(entries: Iterable[TrainingEntry], delta: float) -> float:
    """Epsilon at ``delta`` of all runs for a text that was in each (Opacus: PRV's upper bound, Gopi et al. 2021, where
    that fails numerically Renyi's); infinite if one had no noise."""
    taken: Counter[tuple[float, float]] = Counter()
    for entry in entries:
        taken[entry.noise_multiplier, entry.sampling_rate] += entry.steps
    history = [(noise, rate, steps) for (noise, rate), steps in taken.items() if steps]
    if not history:
        return 0.0
    if any(noise == 0 for noise, _, _ in history):
        return math.inf
    return gaussian_epsilon(history, delta)
