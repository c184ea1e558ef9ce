"""One run of a fleet by both sides, round by round in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protocol.frames import Vector
from simulations.fleets.blocks import Learner
from simulations.fleets.fleet import FleetPlan, FleetState, fleet_rounds
from simulations.fleets.peers.peer import Peer


@dataclass(frozen=True)
class Rival:
    """A peer: its script, what it needs installed beside torch, and timed rounds (Flower's take seconds)."""

    name: str
    script: str
    requirement: str
    rounds: int


@dataclass(frozen=True, eq=False)
class Turns:
    """Seconds of the counted rounds, all but the first, and the trained numbers (d,) of both."""

    ours: list[float]
    peers: list[float]
    theta: Vector
    theirs: Vector

    def difference(self, start: Vector) -> float:
        """The largest difference between two numbers over the largest change of one since ``start``."""
        return float(np.abs(self.theirs - self.theta).max() / np.abs(self.theta - start).max())

    def rates(self, cohort: int) -> tuple[float, float]:
        """People per second of both, by the median round."""
        return cohort / float(np.median(self.ours)), cohort / float(np.median(self.peers))


def in_turns(
    plan: FleetPlan,
    learner: Learner,
    start: Vector,
    rival: Rival,
    python: Path,
    folder: Path,
    task: dict[str, Any],
    on_part: Callable[[float], None] = lambda part: None,
) -> Turns:
    """Train the plan on both sides. ``task`` is what the peer must know beside the plan; its people lie in
    ``folder``."""
    np.save(folder / "start.npy", start)
    specification = {
        "folder": str(folder),
        "start": str(folder / "start.npy"),
        "result": str(folder / "result.npy"),
        "population": plan.population,
        "cohorts": [plan.people_of(round).tolist() for round in range(plan.rounds)],
        "clip_norm": plan.clip_norm,
        "noise_multiplier": plan.noise_multiplier,
        "server_rate": plan.server_rate,
        "threads": 1,
        **task,
    }
    ours, peers, state = list[float](), list[float](), FleetState(start)
    rounds = fleet_rounds(plan, learner, start)
    with Peer(rival.name, python, rival.script, specification) as peer:
        for done in range(plan.rounds):
            began = time.perf_counter()
            state = next(rounds)
            ours.append(time.perf_counter() - began)
            peers.append(peer.turn())
            on_part((done + 1) / plan.rounds)
        peer.finish()
    theirs = np.load(folder / "result.npy").astype(np.float64)
    return Turns(ours[1:], peers[1:], state.theta, theirs)
