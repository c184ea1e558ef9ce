"""What a finished run left, read without touching it: report, tasks, released sums, and everybody's contributions.

The devices of a simulated run are all there, so the auditor can do what no server can: ask each for the contribution
that it made (or, for a newcomer, would have made) to every round, with the device's own code on a copy of its home.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.app import TaskWork
from client.artefacts import Artefacts
from client.work import LocalUpdate
from edge_runtime.device import Device
from protocol.accounting import PrivacyEvent
from protocol.errors import PenchantError
from protocol.messages import RoundTask
from server.aggregate import RoundOutcome
from server.fleet import STORE_NAME
from server.ledger import ServerLedger
from server.store import Store
from simulations.reports.schema import RunReport, parse_report

UPDATES_NAME = "audit-updates.npz"


@dataclass(frozen=True)
class FinishedRun:
    """``homes``: copies, the fleet's members first (``fleet`` of them). ``outcomes``: every released sum, in order;
    ``events``: all that was spent, rounds included that failed afterwards."""

    folder: Path
    report: RunReport
    outcomes: tuple[RoundOutcome, ...]
    events: tuple[PrivacyEvent, ...]
    homes: tuple[Path, ...]
    fleet: int

    @property
    def tasks(self) -> tuple[RoundTask, ...]:
        """The public task of every released round."""
        return tuple(outcome.task for outcome in self.outcomes)


def read_run(folder: Path, workplace: Path) -> FinishedRun:
    """The run in ``folder``; its store and devices are copied to ``workplace`` and opened there.

    Raises PenchantError, with what is missing, if this is no finished run of a simulated fleet.
    """
    wanted = [folder / "report.json", folder / STORE_NAME, folder / "devices"]
    if missing := [path.name for path in wanted if not path.exists()]:
        raise PenchantError(
            f"{folder} is no finished run: it has no {missing[0]}; make one with penchant demo --out {folder}"
        )
    try:
        report = parse_report(json.loads((folder / "report.json").read_text("utf-8")))
    except (ValueError, OSError) as error:
        raise PenchantError(f"{folder / 'report.json'} cannot be read: {error}") from None
    for path in folder.glob(f"{STORE_NAME}*"):
        shutil.copy2(path, workplace / path.name)
    store = Store(workplace / STORE_NAME)
    try:
        rows = [store.round_row(row.round_key) for row in store.ledger_rows()]
        outcomes = []
        for row in rows:
            if (data := store.outcome(row.round_key)) is not None:
                outcomes.append(RoundOutcome.from_bytes(RoundTask.from_bytes(row.task), data))
        events = tuple(spend.event for spend in ServerLedger(store).spends())
    finally:
        store.close()
    if not outcomes:
        raise PenchantError(f"{folder} released no sum: there is nothing to attack")
    if any(len(outcome.task.strategy) > 1 for outcome in outcomes):
        raise PenchantError(
            "this run's noise is correlated over rounds: audits know independent noise only (bands = 1)"
        )
    copied = Path(shutil.copytree(folder / "devices", workplace / "devices"))
    homes = tuple(sorted(path for path in copied.iterdir() if path.is_dir()))
    fleet = report.fleet if report.fleet is not None else len(homes)
    return FinishedRun(folder, report, tuple(outcomes), events, homes, fleet)


def contributions(
    run: FinishedRun,
    rounds: int,
    *,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> list[list[LocalUpdate]]:
    """[round][person]: what everybody put, or would have put, into the first ``rounds`` rounds.

    Kept beside the report (``UPDATES_NAME``, with the tasks' digests), so that an audit that was stopped goes on: they
    hold for this run's invented people only, and are as private as its devices.
    """
    kept = _Kept(run.folder / UPDATES_NAME)
    found: list[list[LocalUpdate]] = []
    for done, task in enumerate(run.tasks[:rounds]):
        artefacts = artefacts_of(run, task)
        updates = []
        for place, home in enumerate(run.homes):
            key = f"{task.digest()}/{home.name}"
            if (update := kept.get(key)) is None:
                with Device.open(home) as device:
                    update = TaskWork(device).compute(task, artefacts)
                kept.put(key, update)
            updates.append(update)
            on_progress((done + (place + 1) / len(run.homes)) / min(rounds, len(run.tasks)))
        kept.save()
        found.append(updates)
    return found


def artefacts_of(run: FinishedRun, task: RoundTask) -> dict[str, bytes]:
    """The artefacts that a task names, from a member's device."""
    with Device.open(run.homes[0]) as member:
        return Artefacts(member.vault).of_task(task)


class _Kept:
    """LocalUpdates by name in one file: (d + 2,) numbers each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrays: dict[str, Any] = {}
        if path.is_file():
            try:
                with np.load(path, allow_pickle=False) as stored:
                    self._arrays = {name: stored[name] for name in stored.files}
            except (ValueError, OSError, EOFError):
                path.unlink()  # cut short: computed again

    def get(self, key: str) -> LocalUpdate | None:
        row = self._arrays.get(key.replace("/", "-"))
        return None if row is None else LocalUpdate(row[:-2], float(row[-2]), int(row[-1]))

    def put(self, key: str, update: LocalUpdate) -> None:
        self._arrays[key.replace("/", "-")] = np.append(update.update, [update.loss_sum, update.example_count])

    def save(self) -> None:
        part = self._path.with_suffix(".part.npz")
        np.savez(part, **self._arrays)
        part.replace(self._path)


def stacked(updates: Sequence[LocalUpdate]) -> np.ndarray:
    """(n, d)."""
    return np.stack([update.update for update in updates])
