"""What an operator may know about a fleet: aggregates, from the store and the live state; no device by name.

Reading takes nothing from a running server: the store is read as it stands.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protocol.accounting import snr_bound
from protocol.messages import RoundTask
from server.aggregate import RoundOutcome
from server.deploy.certificates import days_left
from server.deploy.enrolment import read_members
from server.deploy.folder import FleetConfig, FleetFolder, load
from server.deploy.live import LiveState, read_live
from server.fleet import STORE_NAME
from server.ledger import ServerLedger
from server.releases import Release
from server.store import RoundRow, Store


@dataclass(frozen=True)
class RoundStatus:
    """One attempt. `dropped`: devices of the cohort that are not in the sum (None while it is open);
    `signal_to_noise`: the bound for people who agree (None without noise or without a sum)."""

    round: int
    attempt: int
    kind: str
    stage: str
    cohort: int
    survivors: int | None
    dropped: int | None
    signal_to_noise: float | None
    reason: str


@dataclass(frozen=True)
class FleetStatus:
    """Everything that `fleet status`, the dashboard and the metrics show. `epsilon` (None: no guarantee) at `delta` is
    what all runs of this store have spent; `epsilon_budget` None: no limit is set."""

    fleet: str
    running: bool
    enrolled: int
    live: LiveState
    run_id: str
    rounds_planned: int
    rounds: tuple[RoundStatus, ...]
    epsilon: float | None
    epsilon_budget: float | None
    delta: float
    releases: tuple[Release, ...]
    certificate_days: int

    @property
    def rounds_done(self) -> int:
        """Rounds of the present run whose sum is published."""
        return sum(1 for entry in self.rounds if entry.stage == "done")

    def to_dict(self) -> dict[str, Any]:
        """As JSON, which has no infinity: a release without a guarantee has epsilon None."""
        releases = [release_dict(release) for release in self.releases]
        return {**asdict(self), "releases": releases, "rounds_done": self.rounds_done}


def release_dict(release: Release) -> dict[str, Any]:
    """One release as JSON."""
    return {**asdict(release), "epsilon": release.epsilon if math.isfinite(release.epsilon) else None}


def fleet_status(root: Path) -> FleetStatus:
    """The state of the fleet in `root` now."""
    folder, config = load(root)
    live = read_live(folder.live)
    run_id = str(config.run.get("run-id", ""))
    delta = float(config.run.get("delta") or 1e-5)
    rounds: tuple[RoundStatus, ...] = ()
    releases: tuple[Release, ...] = ()
    epsilon = 0.0
    with _store(folder, config) as store:
        if store is not None:
            rounds = tuple(_round(store, row) for row in store.rounds(run_id))
            releases, epsilon = tuple(store.releases()), ServerLedger(store).epsilon(delta)
    budget = config.epsilon_budget
    return FleetStatus(
        fleet=config.name,
        running=_alive(live.process),
        enrolled=len(read_members(folder).members),
        live=live,
        run_id=run_id,
        rounds_planned=int(config.run.get("rounds") or 0),
        rounds=rounds,
        epsilon=epsilon if math.isfinite(epsilon) else None,
        epsilon_budget=budget if math.isfinite(budget) else None,
        delta=delta,
        releases=releases,
        certificate_days=days_left(folder.read(folder.key("tls.pem"))),
    )


@contextmanager
def _store(folder: FleetFolder, config: FleetConfig) -> Iterator[Store | None]:
    """The store if there is one yet; looking never makes one."""
    path = folder.out / STORE_NAME
    if not config.store and not path.exists():
        yield None
        return
    store = config.open_store(path)
    try:
        yield store
    finally:
        store.close()


def _round(store: Store, row: RoundRow) -> RoundStatus:
    task, data = RoundTask.from_bytes(row.task), store.outcome(row.round_key)
    cohort = len(store.members(row.round_key, "advertise"))
    outcome = None if data is None else RoundOutcome.from_bytes(task, data)
    noise = 0.0 if outcome is None else outcome.effective_noise_multiplier
    return RoundStatus(
        round=row.round,
        attempt=row.attempt,
        kind=task.kind,
        stage=row.stage,
        cohort=cohort,
        survivors=None if outcome is None else outcome.survivors,
        dropped=None if outcome is None else cohort - outcome.survivors,
        signal_to_noise=snr_bound(outcome.survivors, noise, task.update_dimension) if outcome and noise else None,
        reason=row.reason,
    )


def _alive(process: int) -> bool:
    if process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
