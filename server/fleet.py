"""A fleet's rounds from first to last: plan, sample, run, absorb, publish; and the same again after a crash.

What to learn is a `FleetAlgorithm`; how a sum is taken is `server.round`. The algorithm's state is a pure
function of the stored outcomes: after a restart every outcome is handed to `absorb` again, in order, so
nothing else needs saving.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from protocol.distributed_noise import Mechanism
from protocol.errors import BudgetExceeded, PenchantError
from protocol.matrix_factorisation import optimal_strategy
from protocol.messages import RoundTask, SignedRelease
from protocol.round_plan import NOISES
from server.aggregate import RoundOutcome, decorrelate
from server.credentials import ServerCredentials
from server.ledger import ServerLedger, Spend
from server.planning import draw_cohort, task_from_plan
from server.releases import Release, ReleaseShelf
from server.roll_call import RollCall
from server.round import ProgressSink, RoundRunner, ignore_progress
from server.store import RoundRow, Store

STORE_NAME, FRAME_ROLE = "fleet.db", "frame"
# What a resumed run may be given anew; everything else decides what the run's privacy means and stays.
MAY_CHANGE = {"rounds", "epsilon_budget", "stage_seconds", "attempts_per_round", "quorum"}


@dataclass(frozen=True)
class FleetSettings:
    """How a fleet runs. Everything is public: devices see it in the tasks.

    `cohort_size` devices are drawn per round (0 = everybody there); no amplification by sampling is claimed.
    `minimum_survivors`: the smallest cohort that is still unmasked, for which each person's share of the
    noise is sized (0 = what is left when `dropout_fraction` of the cohort vanishes once). A smaller number
    survives more losses and costs accuracy: noise of standard deviation z * sqrt(survivors /
    minimum_survivors) instead of z. `epsilon_budget`: no round starts that would take the store's total above
    it, at `delta`. `stage_seconds`: the deadline of each stage; with a `quorum` below 1, a stage closes earlier,
    as soon as that share of the cohort (and `minimum_survivors`) has answered. `seed` draws the cohorts; keys, masks,
    rotations and noise never use it. `mechanism`: "skellam" or "discrete_gaussian". `spacing`: nobody starts sooner
    than so many rounds after their last start (devices refuse it too), and `cohort_size` start in each round (0 = a
    `spacing`-th of everybody there). `bands` above 1 correlates the noise over so many rounds
    (`protocol.matrix_factorisation`): then the secure sum also has everybody whose participation goes on.
    """

    run_id: str
    rounds: int
    noise_multiplier: float
    delta: float
    cohort_size: int = 0
    minimum_survivors: int = 0
    dropout_fraction: float = 1 / 3
    ring_bits: int = 16
    epsilon_budget: float = math.inf
    stage_seconds: float = 900.0
    attempts_per_round: int = 3
    seed: int = 0
    quorum: float = 1.0
    mechanism: Mechanism = "skellam"
    spacing: int = 1
    bands: int = 1

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.attempts_per_round < 1:
            raise PenchantError("a fleet needs at least one round and one attempt per round")
        if not 0.0 <= self.dropout_fraction < 0.5:
            raise PenchantError(
                "dropout_fraction must lie in [0, 0.5): with more losses no sum can be both safe and exact"
            )
        if not 0.5 < self.quorum <= 1.0:
            raise PenchantError("quorum must lie in (0.5, 1]: the share of a cohort at which a stage closes")
        if self.stage_seconds <= 0.0:
            raise PenchantError("stage_seconds must be above zero")
        if self.mechanism not in NOISES:
            raise PenchantError(f"mechanism is one of {', '.join(NOISES)}, not {self.mechanism!r}")
        if not 1 <= self.bands <= self.spacing:
            raise PenchantError("bands lie between 1 and the spacing, or participations would overlap")


class FleetAlgorithm(Protocol):
    """What the fleet learns. Both methods must be deterministic (see the module's text)."""

    def next_task(self, history: Sequence[RoundOutcome]) -> Mapping[str, Any] | None:
        """What the next round should sum, or None when the algorithm has finished.

        Required keys: `kind` ("shared" or "bases"), `dimension` (int), `clip_norm` (float), `base_sha256`
        (str), `artefacts` ({role: bytes}). Optional: `basis_count` (int, default 1), `settings` ({str: int,
        float or str}), `noise_multiplier` (float, default the fleet's).
        """
        ...

    def absorb(
        self, task: RoundTask, mean_update: NDArray[np.float64], survivors: int, metrics: Mapping[str, float]
    ) -> Mapping[str, bytes] | None:
        """Take in one round's noisy mean, shape (task.update_dimension,); return {name: bytes} to publish.

        `metrics`: `fraction_not_clipped`, `mean_loss` (nats per example), `mean_examples`, all from the same
        noisy sum.
        """
        ...


@dataclass(frozen=True)
class FleetResult:
    """What `run_fleet` leaves. `epsilon` (at `delta`) composes all that this store has ever released: `ledger`, in
    the order in which it was spent, rounds included that failed after their spend.
    """

    run_id: str
    outcomes: tuple[RoundOutcome, ...]
    aborted: tuple[RoundRow, ...]
    releases: tuple[Release, ...]
    epsilon: float
    delta: float
    stopped: str = ""
    ledger: tuple[Spend, ...] = ()


def run_fleet(
    grid: Grid,
    settings: FleetSettings,
    out: Path,
    algorithm: FleetAlgorithm,
    on_progress: ProgressSink = ignore_progress,
    *,
    credentials: ServerCredentials,
    open_store: Callable[[Path], Store] = Store,
) -> FleetResult:
    """Run, or resume, `settings.run_id` in the folder `out` until the algorithm or `rounds` ends it.

    `credentials`: the server's key and the list of members; whoever else answers is not sampled, and its keys are
    not handed to anybody.
    Raises PenchantError if too few devices are there or a round fails `attempts_per_round` times; everything
    finished before stays, and calling again with the same arguments goes on from there.
    """
    store = open_store(out / STORE_NAME)
    try:
        store.open_run(settings.run_id, {k: v for k, v in asdict(settings).items() if k not in MAY_CHANGE})
        return _Fleet(grid, settings, store, ReleaseShelf(out), algorithm, on_progress, credentials).run()
    finally:
        store.close()


class _Fleet:
    def __init__(
        self,
        grid: Grid,
        settings: FleetSettings,
        store: Store,
        shelf: ReleaseShelf,
        algorithm: FleetAlgorithm,
        on_progress: ProgressSink,
        credentials: ServerCredentials,
    ) -> None:
        self.grid, self.settings, self.store, self.shelf = grid, settings, store, shelf
        self.algorithm, self.on_progress, self.credentials = algorithm, on_progress, credentials
        self.ledger = ServerLedger(store)
        self._sums: list[tuple[RoundOutcome, int]] = []  # of each round, with how many started in it
        self.roll = RollCall(grid, credentials, settings.run_id, settings.stage_seconds, on_progress)

    def run(self) -> FleetResult:
        settings, stopped = self.settings, ""
        outcomes = self._replay()
        if len(outcomes) < settings.rounds:
            self.roll.call()
        while len(outcomes) < settings.rounds:
            plan = self.algorithm.next_task(outcomes)
            if plan is None:
                break
            try:
                outcomes.append(self._run_round(len(outcomes), plan))
            except BudgetExceeded as limit:
                stopped = str(limit)
                break
        rows = self.store.rounds(settings.run_id)
        return FleetResult(
            run_id=settings.run_id,
            outcomes=tuple(outcomes),
            aborted=tuple(row for row in rows if row.stage == "aborted"),
            releases=tuple(release for release in self.shelf.all() if release.run_id == settings.run_id),
            epsilon=self.ledger.epsilon(settings.delta),
            delta=settings.delta,
            stopped=stopped,
            ledger=self.ledger.spends(),
        )

    def _replay(self) -> list[RoundOutcome]:
        """Absorb every stored outcome again, finishing the publication that a crash may have interrupted."""
        outcomes: list[RoundOutcome] = []
        for row in self.store.rounds(self.settings.run_id):
            data = self.store.outcome(row.round_key)
            if data is not None:
                outcomes.append(self._absorb(row, data))
        return outcomes

    def _absorb(self, row: RoundRow, data: bytes) -> RoundOutcome:
        outcome = RoundOutcome.from_bytes(RoundTask.from_bytes(row.task), data)
        if len(outcome.task.strategy) > 1:
            self._sums.append((outcome, self.ledger.starters(row.round_key)))
            outcome = decorrelate(*zip(*self._sums, strict=True))[-1]
        published = self.algorithm.absorb(outcome.task, outcome.mean_update, outcome.survivors, outcome.metrics)
        if row.stage == "publish":
            epsilon = self.ledger.epsilon(self.settings.delta)
            releases = []
            for name, content in (published or {}).items():
                parent = self.shelf.newest(name)
                parent_sha256 = parent.sha256 if parent and parent.round < row.round else ""
                releases.append(
                    self.shelf.publish(
                        name,
                        content,
                        self.credentials,
                        run_id=row.run_id,
                        round=row.round,
                        epsilon=epsilon,
                        delta=self.settings.delta,
                        base_sha256=outcome.task.base_sha256,
                        frame_sha256=outcome.task.artefacts.get(FRAME_ROLE, ""),
                        parent_sha256=parent_sha256,
                    )
                )
            self.store.finish(row.round_key, releases)
        return outcome

    def _run_round(self, number: int, plan: Mapping[str, Any]) -> RoundOutcome:
        attempts = [row for row in self.store.rounds(self.settings.run_id) if row.round == number]
        unfinished = [row for row in attempts if row.stage != "aborted"]
        attempt, failed = len(attempts), list[str]()
        while len(failed) < self.settings.attempts_per_round:
            if unfinished:
                row = unfinished.pop()
            else:
                row = self._open_round(number, attempt, plan)
                attempt += 1
            artefacts = _artefact_digests(plan)
            if RoundTask.from_bytes(row.task).artefacts != {role: digest for role, (digest, _) in artefacts.items()}:
                self.store.abort(row.round_key, "the algorithm no longer offers the artefacts of this round")
                failed.append("artefacts changed")
                continue
            if row.stage == "advertise":
                members = self.store.members(row.round_key, "advertise")
                self.roll.supply(members, self._signed(row, artefacts))
            runner = RoundRunner(
                self.grid,
                self.store,
                self.ledger,
                self.credentials,
                row,
                self.roll.nodes,
                self.settings.stage_seconds,
                self.on_progress,
                quorum=self.settings.quorum,
            )
            problem = runner.run()
            if not problem:
                row = self.store.round_row(row.round_key)
                data = self.store.outcome(row.round_key)
                if data is None:
                    raise PenchantError(f"round {number} ended without an outcome: the store {STORE_NAME} is damaged")
                return self._absorb(row, data)
            failed.append(problem)
        raise PenchantError(
            f"round {number} failed {len(failed)} times, the last time because {failed[-1]}: "
            "wait for more devices, then run the same command again"
        )

    def _open_round(self, number: int, attempt: int, plan: Mapping[str, Any]) -> RoundRow:
        self.roll.call()
        present = sorted(self.roll.nodes)
        draw = random.Random(
            sha256(f"{self.settings.seed}/{self.settings.run_id}/{number}/{attempt}".encode()).digest()
        )
        starters = self.settings.cohort_size or len(present) // self.settings.spacing
        if len(present) < starters or starters < 3:
            raise PenchantError(
                f"{len(present)} devices are there, a round needs {max(starters, 3)}: enrol or start more"
            )
        strategy = self._strategy()
        members = draw_cohort(
            present,
            self.ledger.starts(self.settings.run_id),
            draw,
            round=number,
            size=starters,
            spacing=self.settings.spacing,
            bands=len(strategy),
        )
        task = task_from_plan(
            plan,
            run_id=self.settings.run_id,
            round=number,
            attempt=attempt,
            cohort_size=len(members),
            minimum_survivors=self.settings.minimum_survivors,
            dropout_fraction=self.settings.dropout_fraction,
            noise_multiplier=self.settings.noise_multiplier,
            delta=self.settings.delta,
            ring_bits=self.settings.ring_bits,
            mechanism=self.settings.mechanism,
            spacing=self.settings.spacing,
            strategy=strategy,
            artefacts={role: digest for role, (digest, _) in _artefact_digests(plan).items()},
        ).model_copy(update={"fleet_id": self.credentials.fleet_id, "roster_serial": self.credentials.serial})
        after = self.ledger.epsilon_after(task, self.settings.delta, members)
        if after > self.settings.epsilon_budget:
            raise BudgetExceeded(
                f"one more round would bring epsilon to {after:.2f}, "
                f"above the fleet's {self.settings.epsilon_budget:.2f}"
            )
        return self.store.open_round(self.settings.run_id, number, attempt, task.to_bytes(), members)

    def _strategy(self) -> tuple[float, ...]:
        """The run's, fixed by its first task: `rounds` may change when a run is resumed."""
        rows = self.store.rounds(self.settings.run_id)
        if rows:
            return RoundTask.from_bytes(rows[0].task).strategy
        return optimal_strategy(self.settings.bands, self.settings.rounds).coefficients

    def _signed(self, row: RoundRow, artefacts: Mapping[str, tuple[str, bytes]]) -> dict[str, SignedRelease]:
        """The round's artefacts by digest, each with a statement for this round."""
        task, epsilon = RoundTask.from_bytes(row.task), self.ledger.epsilon(self.settings.delta)
        signed = {}
        for role, (digest, data) in artefacts.items():
            release = Release(
                role, digest, "", len(data), row.run_id, row.round, epsilon, self.settings.delta,
                task.base_sha256, "" if role == FRAME_ROLE else task.artefacts.get(FRAME_ROLE, ""),
            )  # fmt: skip
            signed[digest] = release.signed(self.credentials, data)
        return signed


def _artefact_digests(plan: Mapping[str, Any]) -> dict[str, tuple[str, bytes]]:
    """{role: (SHA-256 in hex, bytes)} of a plan's artefacts."""
    return {role: (sha256(data).hexdigest(), data) for role, data in dict(plan["artefacts"]).items()}
