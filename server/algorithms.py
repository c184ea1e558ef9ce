"""What the fleet learns: first one shared adapter, then K adapter bases, from nothing but noisy sums.

Shared adapter: FedAvg (McMahan et al. 2017) in the frame, where a mean of adapters is exact:
``theta <- theta + server_rate * shrink(mean_u delta_u)``, the mean shrunk by what its known noise explains.

Bases: blind subspace iteration. The first sum is the sketch ``Y = sum_u w_u (x) delta_u`` (K x d) with private random
``w_u``; its orthonormalised rows are the bases; in every later sum the devices use their own projections as
``w_u``, which is one step of subspace iteration on ``M = sum_u delta_u delta_u^T`` with normalised weights (Halko,
Martinsson and Tropp 2011, algorithm 4.4). Everything here is post-processing of released sums: it costs no privacy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.clipping import update_clip_norm
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.frames import Frame
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan
from server.aggregate import RoundOutcome


@dataclass(frozen=True)
class PreferencePlan:
    """How many sums of which kind, and how they are bounded.

    ``shared_clip`` and ``bases_clip``: L2 bounds on one person's contribution in coordinates. ``clip_quantile``: with
    ``clip_rate`` above 0 the bound of the shared rounds follows this quantile (Andrew et al. 2021). ``training``:
    public settings for the devices.
    """

    shared_rounds: int = 3
    bases_rounds: int = 2
    basis_count: int = 2
    shared_clip: float = 0.6
    bases_clip: float = 0.8
    clip_quantile: float = 0.5
    clip_rate: float = 0.2
    server_rate: float = 1.0
    training: Mapping[str, float | int | str] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Sums released in all."""
        return self.shared_rounds + self.bases_rounds

    def __post_init__(self) -> None:
        if min(self.shared_rounds, self.bases_rounds) < 0 or self.rounds < 1 or self.basis_count < 1:
            raise PenchantError("a plan needs at least one round and one basis")


class PreferenceBases:
    """``server.fleet.FleetAlgorithm``: shared adapter, then bases. State is a function of the outcomes alone."""

    def __init__(self, frame: Frame, plan: PreferencePlan) -> None:
        self.frame, self.plan = frame, plan
        self.shared: NDArray[np.float64] = np.zeros(frame.dimension)
        self.bases: NDArray[np.float64] | None = None  # orthonormal, what the next sum is projected on
        self.mixing: NDArray[np.float64] = np.zeros((plan.basis_count, frame.dimension))  # what is published
        self.spectrum: tuple[float, ...] = ()
        self.noise_floor = 0.0
        self._clip = plan.shared_clip
        self._frame_bytes = frame.to_bytes()

    def next_task(self, history: Sequence[RoundOutcome]) -> Mapping[str, Any] | None:
        """The next sum, or None when all are taken."""
        done = len(history)
        if done >= self.plan.rounds:
            return None
        artefacts = {
            "frame": self._frame_bytes,
            "shared": Coordinates(self.frame.digest, self.shared[None]).to_bytes(),
        }
        task: dict[str, Any] = {
            "kind": "shared",
            "dimension": self.frame.dimension,
            "clip_norm": self._clip,
            "base_sha256": self.frame.base_sha256,
            "artefacts": artefacts,
            "settings": dict(self.plan.training),
        }
        if done >= self.plan.shared_rounds:
            task.update(kind="bases", basis_count=self.plan.basis_count, clip_norm=self.plan.bases_clip)
            if self.bases is not None:
                artefacts["bases"] = Coordinates(self.frame.digest, self.bases).to_bytes()
        return task

    def absorb(
        self,
        task: RoundTask,
        mean_update: NDArray[np.float64],
        survivors: int,
        metrics: Mapping[str, float],
    ) -> Mapping[str, bytes]:
        """Take in one noisy mean and publish what follows from it."""
        if task.kind == "shared":
            update = shrink(mean_update, noise_in(task, survivors, metrics))
            self.shared = self.shared + self.plan.server_rate * update
            if self.plan.clip_rate > 0:
                self._clip = update_clip_norm(
                    self._clip,
                    float(np.clip(metrics["fraction_not_clipped"], 0.0, 1.0)),
                    self.plan.clip_quantile,
                    self.plan.clip_rate,
                )
            return {"shared": Coordinates(self.frame.digest, self.shared[None]).to_bytes()}
        sketch = mean_update.reshape(task.basis_count, task.dimension)
        self.bases, self.spectrum = orthonormal_rows(sketch)
        deviation = noise_in(task, survivors, metrics)
        self.noise_floor = deviation * (math.sqrt(task.dimension) + math.sqrt(task.basis_count))
        self.mixing = self.bases * np.sqrt(reliability(self.spectrum, self.noise_floor))[:, None]
        return {"bases": Coordinates(self.frame.digest, self.mixing).to_bytes()}


def noise_deviation(task: RoundTask, survivors: int) -> float:
    """Standard deviation of the noise in one coordinate of a round's mean update, 0 for a round without noise."""
    return math.sqrt(RoundPlan.of(task).noise.total_variance(survivors)) / task.scale / survivors


def noise_in(task: RoundTask, survivors: int, metrics: Mapping[str, float]) -> float:
    """The same for any round: where noise is correlated, it depends on earlier rounds and comes with the mean."""
    return metrics["noise_deviation"] if len(task.strategy) > 1 else noise_deviation(task, survivors)


def shrink(mean: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Positive-part James-Stein estimate of the true mean (d,) from one noisy reading with known noise.

    ``max(0, 1 - (d - 2) deviation^2 / ||mean||^2) * mean``: never worse in expected squared error than the reading
    itself for d >= 3 (James and Stein 1961), and free, since it only post-processes a released sum.
    """
    square = float(mean @ mean)
    if square == 0.0 or len(mean) < 3:
        return mean
    return max(0.0, 1.0 - (len(mean) - 2) * deviation**2 / square) * mean


def reliability(spectrum: Sequence[float], noise_floor: float) -> NDArray[np.float64]:
    """The part of each singular value's square that noise does not explain, in [0, 1]; shape (K,).

    Rows are published times its square root, so that a device's projection on a row and the row itself together
    step ``reliability`` of the way: a direction that cannot be told from noise moves nobody.
    """
    squares = np.square(np.asarray(spectrum, dtype=np.float64))
    kept = 1.0 - np.divide(noise_floor**2, squares, out=np.full_like(squares, np.inf), where=squares > 0)
    clipped: NDArray[np.float64] = np.clip(kept, 0.0, 1.0)
    return clipped


def orthonormal_rows(
    sketch: NDArray[np.float64],
) -> tuple[NDArray[np.float64], tuple[float, ...]]:
    """(orthonormal rows spanning the sketch (K, d), strongest first; the sketch's singular values).

    Signs are fixed so that the largest entry of each row is positive: equal sums give equal bases everywhere.
    """
    _, values, rows = np.linalg.svd(sketch, full_matrices=False)
    signs = np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(1)])
    signs[signs == 0] = 1.0
    return rows * signs[:, None], tuple(float(v) for v in values)
