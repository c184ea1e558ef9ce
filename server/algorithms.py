"""What the fleet learns: first one shared adapter, then K adapter bases, from nothing but noisy sums.

Shared adapter: FedAvg (McMahan et al. 2017) in the frame, where a mean of adapters is exact:
``theta <- theta + server_rate * shrink(mean_u delta_u)``, the mean shrunk by what its known noise explains.

Bases: blind subspace iteration. Every sum is ``Y = sum_u w_u (x) delta_u`` on public orthonormal rows ``Q``
(`protocol.subspace_sketch`): random ones, drawn from the frame's digest, in the first sum, the right singular vectors
of what has been released in every later one, which is one step of subspace iteration on ``M = sum_u delta_u delta_u^T``
(Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1: a few rows more than bases, cut at the end). A private random
``w_u`` in the first sum would give ``Q_0 = W^T Delta`` instead of ``R M``: half a power of M less, and a signal of
``sqrt(n)`` people instead of n under the same noise.

Under noise all sums are readings of the same directions and are stacked; without, the last one replaces the others. A
direction is published only if it stands above what the noise, and chance among this many people, would show of their
own (`server.spectrum`); so K may be anything from 0 to ``basis_count``. Everything here is post-processing of released
sums: it costs no privacy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.bank import Bank
from protocol.clipping import update_clip_norm
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.frames import Frame
from protocol.messages import RoundTask
from protocol.round_plan import RoundPlan
from server.aggregate import RoundOutcome
from server.spectrum import largest_noise_value, reliability


@dataclass(frozen=True)
class PreferencePlan:
    """How many sums of which kind, and how they are bounded.

    ``shared_clip`` and ``bases_clip``: L2 bounds on one person's contribution in coordinates. ``clip_quantile``: with
    ``clip_rate`` above 0 the bound of the shared rounds follows this quantile (Andrew et al. 2021). ``basis_count``:
    the most bases that are published; the sums have ``oversampling`` rows more. ``training``: public settings for the
    devices.
    """

    shared_rounds: int = 3
    bases_rounds: int = 2
    basis_count: int = 2
    oversampling: int = 4
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
        if min(self.shared_rounds, self.bases_rounds) < 0 or self.rounds < 1:
            raise PenchantError("a plan needs at least one round")
        if self.bases_rounds == 1:
            raise PenchantError("bases need at least two sums: the first only says where to look")
        if self.basis_count < 1 or self.oversampling < 0:
            raise PenchantError("a plan needs at least one basis, and rows of the sums for each")


class PreferenceBases:
    """``server.fleet.FleetAlgorithm``: shared adapter, then bases. State is a function of the outcomes alone.

    ``rows`` (K', d) orthonormal: what the next sum is taken on. ``spectrum``: singular values of the released mean, one
    per row; ``noise_floor``: what the largest of them would be without anybody in the sum. ``bank``: what is published.
    """

    def __init__(self, frame: Frame, plan: PreferencePlan) -> None:
        self.frame, self.plan = frame, plan
        self.shared: NDArray[np.float64] = np.zeros(frame.dimension)
        self.rows = first_rows(frame, plan.basis_count + plan.oversampling)
        self.bank = Bank.of_shared("adapter", frame.digest, self.shared)
        self.spectrum: tuple[float, ...] = ()
        self.noise_floor = 0.0
        self._sums: list[_Reading] = []
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
            task.update(kind="bases", basis_count=len(self.rows), clip_norm=self.plan.bases_clip)
            artefacts["bases"] = Coordinates(self.frame.digest, self.rows).to_bytes()
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
            self.bank = Bank.of_shared("adapter", self.frame.digest, self.shared)
            if self.plan.clip_rate > 0:
                self._clip = update_clip_norm(
                    self._clip,
                    float(np.clip(metrics["fraction_not_clipped"], 0.0, 1.0)),
                    self.plan.clip_quantile,
                    self.plan.clip_rate,
                )
            return {"shared": Coordinates(self.frame.digest, self.shared[None]).to_bytes()}
        sketch = mean_update.reshape(task.basis_count, task.dimension)
        self._sums.append(_Reading(self.rows, sketch, noise_in(task, survivors, metrics)))
        self.bank = self._bank(task, survivors)
        return {"bank": self.bank.to_bytes()}

    def _bank(self, task: RoundTask, survivors: int) -> Bank:
        """Take in the newest sum: the next rows, the spectrum, and the directions that may be told from chance."""
        last = self._sums[-1]
        noisy = task.noise_multiplier > 0.0
        readings = self._sums if noisy else self._sums[-1:]
        count, deviation = len(readings), last.deviation / math.sqrt(len(readings))
        # Every reading scaled to the noise of the last, so that one edge holds for all rows of the stack.
        scales = [last.deviation / one.deviation if noisy else 1.0 for one in readings]
        stack = np.vstack([scale * one.sketch for scale, one in zip(scales, readings, strict=True)]) / math.sqrt(count)
        rows, values = orthonormal_rows(stack)
        self.rows, self.spectrum = rows[: len(self.rows)], values[: len(self.rows)]
        self.noise_floor = largest_noise_value(deviation, len(stack), task.dimension)
        sure = reliability(self.spectrum, deviation, len(stack), task.dimension)
        squares = last.mean_squares(task.clip_norm, noisy)
        kept = min(
            self.plan.basis_count,
            int(np.argmin([*sure, 0.0])),  # the first that noise explains
            self._shared_directions(squares, task.clip_norm, noisy, survivors),
        )
        nobody = np.zeros((0, kept))
        return Bank("adapter", self.frame.digest, self.shared, self.rows[:kept], np.sqrt(squares[:kept]), nobody)

    def _shared_directions(self, squares: NDArray[np.float64], clip_norm: float, noisy: bool, survivors: int) -> int:
        """How many directions are stronger than any that people without anything in common would have.

        ``squares`` (K',): mean over people of ``(row . delta_u)^2``. c directions fill c of the K' dimensions of what
        the first, data-independent rows hold of a residual; the mean of the rest is tau^2, the mean square of its
        isotropic part in one number.
        """
        first, last = self._sums[0].mean_squares(clip_norm, noisy), self._sums[-1]
        # What noise adds to an eigenvalue of K' x K' numbers (Wigner's edge), in the unit of the squares.
        blur = last.deviation * math.sqrt(2.0 * len(squares)) * math.sqrt(float(squares.sum()))
        for count in range(len(squares)):
            tau = math.sqrt(float(first[count:].mean()))
            chance = largest_noise_value(tau, survivors, self.frame.dimension) ** 2 / survivors
            if squares[count] <= chance + blur:
                return count
        return len(squares)


@dataclass(frozen=True)
class _Reading:
    """One released mean ``sketch`` (K', d), the orthonormal ``rows`` it was taken on, and its noise."""

    rows: NDArray[np.float64]
    sketch: NDArray[np.float64]
    deviation: float

    def mean_squares(self, clip_norm: float, noisy: bool) -> NDArray[np.float64]:
        """Mean over people of ``(row . delta)^2`` along the principal directions within the rows, strongest first.

        ``sketch rows^T`` is the mean of ``w (x) Q delta``: K' x K' numbers, so its noise is small where the sketch's
        own singular values are buried. A lower bound for the rows that the sum leads to, which hold more.
        """
        on_rows = self.sketch @ self.rows.T
        values = np.maximum(np.linalg.eigvalsh(0.5 * (on_rows + on_rows.T))[::-1], 0.0)
        return unit_sum_squares(values) if noisy else values * clip_norm


def unit_sum_squares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``lambda_k`` (K,) with ``E[x_k^2 / ||x||] = values_k`` for ``x ~ N(0, diag(lambda))``.

    A sum of unit weights shows the left side, which favours weak directions: people who are far out in the strong ones
    count less. The Gaussian is the prior of the weights in `protocol.bank`; the expectation is taken over fixed draws,
    so that equal sums give equal banks, and the equation is solved by its fixed point.
    """
    square = np.square(np.random.default_rng(0).normal(size=(4000, len(values))))
    found: NDArray[np.float64] = values * values.sum()
    for _ in range(50):
        length = np.sqrt(np.maximum(square @ found, 1e-300))
        shown = found * (square / length[:, None]).mean(axis=0)
        found = found * np.divide(values, shown, out=np.zeros_like(values), where=shown > 0.0)
    return found


def first_rows(frame: Frame, count: int) -> NDArray[np.float64]:
    """Random orthonormal rows (min(count, d), d) on which the first sum is taken: public, the same for everybody."""
    random = np.random.default_rng(int(frame.digest, 16))
    drawn = random.normal(size=(frame.dimension, min(count, frame.dimension)))
    rows: NDArray[np.float64] = np.linalg.qr(drawn)[0].T
    return rows


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
