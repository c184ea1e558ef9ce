"""The fleet's user projection: rounds of FedAvg on theta = (R, b), from nothing but noisy sums.

``theta <- theta + shrink(mean_u delta_u)``. The shared token b has a mean that most people agree on, R
has what is personal and is mostly noise in a small fleet; so the two parts are shrunk each by what their own known
noise explains (James and Stein 1961), and a part that cannot be told from noise moves nobody. All of it is
post-processing of released sums and costs no privacy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.messages import RoundTask
from protocol.user_projection import ProjectionFrame, UserProjection
from server.aggregate import RoundOutcome
from server.algorithms import noise_in, shrink

RELEASE = "user_projection"


@dataclass(frozen=True)
class ProjectionPlan:
    """``rounds`` sums, each person's part bounded by ``clip`` (L2): a known number, since the devices' steps have a
    fixed length. ``training``: the devices' settings, which name their work."""

    rounds: int = 2
    clip: float = 0.25
    training: Mapping[str, float | int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.clip <= 0.0:
            raise PenchantError("a projection's plan needs at least one round, and a clip above zero")


class ProjectionFleet:
    """``server.fleet.FleetAlgorithm`` for the user projection. State is a function of the outcomes alone."""

    def __init__(self, frame: ProjectionFrame, plan: ProjectionPlan) -> None:
        self.frame, self.plan = frame, plan
        self.theta: NDArray[np.float64] = np.zeros(frame.dimension)
        self._frame_bytes = frame.to_bytes()

    @property
    def projection(self) -> UserProjection:
        """What the fleet has learnt so far, as devices read it (float32)."""
        return UserProjection(self.frame, self.theta.astype(np.float32).astype(np.float64))

    def next_task(self, history: Sequence[RoundOutcome]) -> Mapping[str, Any] | None:
        """The next sum, or None when all are taken."""
        if len(history) >= self.plan.rounds:
            return None
        return {
            "kind": "shared",
            "dimension": self.frame.dimension,
            "clip_norm": self.plan.clip,
            "base_sha256": self.frame.base_sha256,
            "artefacts": {"frame": self._frame_bytes, "shared": self._coordinates()},
            "settings": dict(self.plan.training),
        }

    def absorb(
        self, task: RoundTask, mean_update: NDArray[np.float64], survivors: int, metrics: Mapping[str, float]
    ) -> Mapping[str, bytes]:
        """Take in one noisy mean and publish the projection that follows from it."""
        deviation, split = noise_in(task, survivors, metrics), len(mean_update) - self.frame.outputs.shape[1]
        parts = [shrink(part, deviation) for part in (mean_update[:split], mean_update[split:])]
        self.theta = self.theta + np.concatenate(parts)
        return {RELEASE: self.projection.to_bytes()}

    def _coordinates(self) -> bytes:
        return Coordinates(self.frame.digest, self.theta[None]).to_bytes()
