"""Private rounds of a simulated fleet: many people in one batch, one noise per round, memory that grows with a block.

One round from theta_t (d,), with n = ``cohort`` people expected and noise multiplier z:

    theta_(t+1) = theta_t + server_rate / n * ( sum over the cohort of clip(delta_p, C) + N(0, (z C)^2 I) )

The sum is formed block after block (``simulations.fleets.blocks``), in one process or several; blocks are cut and added
in a fixed order, so neither the number of processes nor a restart changes a bit. Noise is that of the central Gaussian
mechanism: what secure sums of integer shares are accounted as (``protocol.accounting``), without their transport.

Privacy: the unit is one person, neighbours differ in one person's presence (their part replaced by zero), the releases
are the thetas. ``poisson``: everybody takes part in a round independently with probability n / population, and that
sampling is claimed. ``fixed``: n people drawn without replacement, and no amplification is claimed. Noise and cohorts
come from ``seed``: right for an experiment, never for people's real data.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from edge_runtime.models.catalogue import write_atomically
from protocol.accounting import Accountant, PrivacyEvent
from protocol.errors import PenchantError
from protocol.frames import Vector
from simulations.fleets.blocks import Learner, People
from simulations.fleets.workers import Workers

STATE: Final = "fleet.npz"
_COHORT, _NOISE = 0, 1  # streams of a round's seed


@dataclass(frozen=True)
class FleetPlan:
    """Who takes part how often, and the mechanism. ``noise_multiplier`` 0 is for tests and comparisons."""

    population: int
    cohort: int
    rounds: int
    clip_norm: float
    noise_multiplier: float
    sampling: Literal["poisson", "fixed"] = "poisson"
    server_rate: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.cohort <= self.population or self.rounds < 1:
            raise PenchantError("a fleet needs at least one round and a cohort between 1 and its population")
        numbers = (self.clip_norm, self.noise_multiplier, self.server_rate)
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or not self.clip_norm:
            raise PenchantError("clip_norm must be positive, noise_multiplier and server_rate finite and not negative")
        if self.sampling not in ("poisson", "fixed"):
            raise PenchantError("sampling is poisson or fixed")

    @property
    def sampling_probability(self) -> float:
        """What may be claimed: the rate of a Poisson sample, 1 of any other."""
        return self.cohort / self.population if self.sampling == "poisson" else 1.0

    def epsilon(self, delta: float, rounds: int | None = None) -> float:
        """What so many rounds (None: all) spend together at ``delta``."""
        count = self.rounds if rounds is None else rounds
        return Accountant([PrivacyEvent(self.noise_multiplier, self.sampling_probability, count)]).epsilon(delta)

    def people_of(self, round: int) -> People:
        """The cohort of a round, ascending; its cost does not grow with the population."""
        random = self._random(round, _COHORT)
        count = self.cohort
        if self.sampling == "poisson":  # given its size, a Poisson sample is uniform among the sets of that size
            count = int(random.binomial(self.population, self.sampling_probability))
        return np.sort(random.choice(self.population, count, replace=False, shuffle=False)).astype(np.int64)

    def noise_of(self, round: int, dimension: int) -> Vector:
        """The noise of a round's sum, (dimension,)."""
        if not self.noise_multiplier:
            return np.zeros(dimension)
        noise = self._random(round, _NOISE).standard_normal(dimension)
        noise *= self.noise_multiplier * self.clip_norm
        return noise

    def _random(self, round: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, round, stream])


@dataclass(frozen=True)
class RoundNote:
    """For whoever runs the study, never released: people that took part, how many were clipped, and the mean over them
    of their mean loss before training (nan in an empty cohort)."""

    people: int
    clipped: int
    loss: float


@dataclass(frozen=True, eq=False)
class FleetState:
    """After ``len(notes)`` rounds: ``theta`` (d,), and what was seen."""

    theta: Vector
    notes: tuple[RoundNote, ...] = ()

    @property
    def round(self) -> int:
        """Rounds done."""
        return len(self.notes)


def fleet_rounds(
    plan: FleetPlan, learner: Learner, start: Vector, *, workers: int = 1, folder: Path | None = None
) -> Generator[FleetState, None, None]:
    """The states after each round from ``start`` (d,), or from where the run in ``folder`` was stopped.

    With a ``folder`` every state is on disk before it is handed out. Raises PenchantError if the folder holds another
    run, or its state is damaged.
    """
    if start.shape != (learner.dimension,):
        raise PenchantError(f"the learner trains {learner.dimension} numbers, the start has {start.shape}")
    digest = "" if folder is None else _digest(plan, learner, start)
    state = FleetState(np.asarray(start, dtype=np.float64)) if folder is None else _load(folder, digest, start)
    with Workers(learner, workers) as pool:
        while state.round < plan.rounds:
            state = _one_round(plan, learner, pool, state)
            if folder is not None:
                _save(folder, digest, state)
            yield state


def train_fleet(
    plan: FleetPlan,
    learner: Learner,
    start: Vector,
    *,
    workers: int = 1,
    folder: Path | None = None,
    on_round: Callable[[FleetState], None] = lambda state: None,
) -> FleetState:
    """The last of ``fleet_rounds``; of a run that had ended already, its end."""
    state = None
    for state in fleet_rounds(plan, learner, start, workers=workers, folder=folder):
        on_round(state)
    if state is None:  # no round was left, which takes a folder
        assert folder is not None
        state = _load(folder, _digest(plan, learner, start), start)
    return state


def _one_round(plan: FleetPlan, learner: Learner, pool: Workers, state: FleetState) -> FleetState:
    people = plan.people_of(state.round)
    size = learner.people_at_once
    blocks = [people[first : first + size] for first in range(0, len(people), size)]
    total = plan.noise_of(state.round, learner.dimension)
    clipped, loss = 0, 0.0
    for part in pool.sums(blocks, state.theta, plan.clip_norm):
        total += part.total
        clipped, loss = clipped + part.clipped, loss + part.loss
    total *= plan.server_rate / plan.cohort
    total += state.theta
    mean_loss = loss / len(people) if len(people) else math.nan
    return FleetState(total, (*state.notes, RoundNote(len(people), clipped, mean_loss)))


def _digest(plan: FleetPlan, learner: Learner, start: Vector) -> str:
    parts = [json.dumps(asdict(plan), sort_keys=True).encode(), learner.digest.encode()]
    return hashlib.sha256(b"\0".join([*parts, np.asarray(start, dtype=np.float64).tobytes()])).hexdigest()


def _save(folder: Path, digest: str, state: FleetState) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        digest=np.array(digest),
        theta=state.theta,
        counts=np.array([(note.people, note.clipped) for note in state.notes], dtype=np.int64),
        losses=np.array([note.loss for note in state.notes]),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise PenchantError(f"cannot create {folder}: choose another folder for the run") from None
    write_atomically(folder / STATE, buffer.getvalue())


def _load(folder: Path, digest: str, start: Vector) -> FleetState:
    """What the folder holds of this run; its beginning if it holds nothing."""
    try:
        with np.load(folder / STATE, allow_pickle=False) as held:
            if str(held["digest"]) != digest:
                raise PenchantError(f"{folder} holds a run of other people or settings: choose another folder")
            pairs = zip(held["counts"].tolist(), held["losses"].tolist(), strict=True)
            notes = tuple(RoundNote(people, clipped, loss) for (people, clipped), loss in pairs)
            return FleetState(held["theta"], notes)
    except FileNotFoundError:
        return FleetState(np.asarray(start, dtype=np.float64))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        raise PenchantError(f"{folder / STATE} cannot be read: remove the folder to begin again") from None
