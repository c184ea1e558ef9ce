"""What the fleet likes, and in which directions its people differ: reward bases from noisy sums alone.

    scales    1 round    unit and correlations of the features, fraction of ties, first step of the shared taste
    shared    S - 1      the taste that fits everybody best: preconditioned gradient steps
    moments   1          a k x k matrix whose leading eigenvectors start the directions
    gradient  G          shared taste and directions together (``protocol.reward_rounds``)
    choice    1          K and the strength of the spread, by gain on choices that nobody has trained on
    gradient  F          the same again with the K that was chosen, on all choices

Directions are kept as ``L`` (K, k) = spread times unit rows under the prior w ~ N(0, I): only L^T L matters to what
the fleet does, so a noisy mean is one step on L and the spread needs no rounds of its own; a singular value
decomposition turns it into the orthonormal rows and spread that are published. Steps are gradients divided by the
curvature that the first round implies, and shorter the more noise they carry (``StepSize``). They are not shrunk one
by one as ``server.algorithms.shrink`` would: later rounds see what noise did and pull it back, while a sum of shrunk
steps never arrives (2,000 people at epsilon 2: a fifth of the gain, instead of over half). Everything is
post-processing of released sums. Until the choice round has spoken, only the shared taste is published: a direction
that no held-out choice vouches for moves nobody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from protocol.bank import Bank
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.feature_map import FeatureMap
from protocol.messages import RoundTask
from protocol.reward_rounds import (
    CENTRAL_COUNT,
    NUMBER_WEIGHT,
    OCTAVES,
    SCALES_WEIGHT,
    SHARE_WEIGHT,
    STRENGTHS,
    TYPICAL_SHARE,
    RewardWorkOrder,
    Work,
    untriangle,
)
from protocol.taste_release import TasteRelease
from server.aggregate import RoundOutcome
from server.algorithms import noise_in, orthonormal_rows

RELEASE: Final = "taste"
CURVATURE: Final = 0.2  # of a choice's nll, about its mean over choices (1/4 at most)
SHRINK = False
LEAST_SHARE: Final = 0.05  # of the mean eigenvalue: directions that vary less than this are not blown up
DOUBT: Final = 2.0  # standard deviations by which a gain or a fraction must exceed zero
NEARLY_BEST: Final = 0.05  # of the best gain: fewer directions are worth as much

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RewardPlan:
    """Rounds of each kind, the most directions ``maximum_count`` to look for, and L2 bounds on one person.

    The bounds are pure numbers: contributions do not depend on the features' unit. ``held_out``: newest fraction of a
    person's choices that no round before the final ones trains on. ``base_sha256``: the fleet's model file, where the
    features come from another one.
    """

    shared_rounds: int = 3
    gradient_rounds: int = 5
    final_rounds: int = 3
    maximum_count: int = 12
    shared_clip: float = 0.4
    moments_clip: float = 0.6
    gradient_clip: float = 0.4
    choice_clip: float = 0.7
    held_out: float = 0.25
    base_sha256: str = ""

    def __post_init__(self) -> None:
        if self.shared_rounds < 1 or min(self.gradient_rounds, self.final_rounds) < 0 or self.maximum_count < 1:
            raise PenchantError("reward bases need at least one shared round and one direction to look for")
        if not 0.0 < self.held_out < 1.0:
            raise PenchantError("held_out is a fraction of each person's choices, above 0 and below 1")

    @property
    def schedule(self) -> tuple[Work, ...]:
        """The work of every round."""
        works: list[tuple[Work, int]] = [
            ("scales", 1),
            ("shared", self.shared_rounds - 1),
            ("moments", 1),
            ("gradient", self.gradient_rounds),
            ("choice", 1),
            ("gradient", self.final_rounds),
        ]
        return tuple(work for work, times in works for _ in range(times))

    @property
    def rounds(self) -> int:
        """Sums released in all."""
        return len(self.schedule)


@dataclass
class StepSize:
    """How much of a noisy step to take, from how wrong the current value is thought to be.

    ``error``: expected squared error per number, in features of unit length (1: a taste whose rewards differ by about
    one between random answers). A step of rate g takes away the part ``g * progress`` of what is wrong and adds
    g times its noise; ``rate`` is the g that leaves the least. Without noise it is 1 always; under noise it falls
    round by round, so that later steps average the noise of earlier ones (a scalar Kalman filter).
    """

    error: float
    progress: float

    def rate(self, noise: float) -> float:
        """The rate for a full step whose numbers have this standard deviation of noise; counts it as taken."""
        c, wrong = self.progress, self.error
        rate = min(1.0, c * wrong / (c**2 * wrong + noise**2)) if wrong > 0.0 else 0.0
        self.error = (1.0 - rate * c) ** 2 * wrong + (rate * noise) ** 2
        return rate


class RewardBases:
    """``server.fleet.FleetAlgorithm``. State is a function of the outcomes alone.

    ``shared`` (k,) and ``directions`` L (K, k) are in the features' own units, ``whitening`` (k, k) makes those white:
    a taste that is t in white features is ``whitening @ t`` in the features' own.
    ``gains`` (len(STRENGTHS), K): what the choice round said, in nats per choice, None before it.
    """

    def __init__(self, feature_map: FeatureMap, plan: RewardPlan) -> None:
        self.feature_map, self.plan = feature_map, plan
        k = feature_map.dimension
        self.shared: Array = np.zeros(k)
        self.whitening: Array = np.eye(k)
        self.directions: Array = np.zeros((0, k))
        self.tie_width = 0.0
        self.gains: Array | None = None
        self.gain_deviation = 0.0
        self.spectrum: Array = np.zeros(0)
        self.noise_floor = 0.0
        self._shared_error, self._directions_error = StepSize(1.0, 0.7), StepSize(0.25, 0.3)
        self._typical_count = CENTRAL_COUNT
        self._map_bytes = feature_map.to_bytes()

    @property
    def bank(self) -> Bank:
        """What is published: orthonormal directions, strongest first, with their spread; none before the choice."""
        if self.gains is None or not len(self.directions):
            return Bank.of_shared("reward", self.feature_map.digest, self.shared, self.tie_width)
        rows, spread = orthonormal_rows(self.directions)
        return self._bank(rows, np.asarray(spread))

    def next_task(self, history: Sequence[RoundOutcome]) -> Mapping[str, Any] | None:
        """The next sum, or None when all are taken."""
        if len(history) >= self.plan.rounds:
            return None
        work, final = self.plan.schedule[len(history)], len(history) >= self.plan.rounds - self.plan.final_rounds
        count = len(self.directions) if work in ("gradient", "choice") else 0
        order = RewardWorkOrder(
            work=work,
            dimension=self.feature_map.dimension,
            count=count,
            clip_norm={"moments": self.plan.moments_clip, "choice": self.plan.choice_clip,
                       "gradient": self.plan.gradient_clip}.get(work, self.plan.shared_clip),
            held_out=0.0 if final else self.plan.held_out,
        )  # fmt: skip
        return {
            "kind": "shared" if work in ("scales", "shared") else "bases",
            "space": "reward",
            "dimension": order.length,
            "clip_norm": order.clip_norm,
            "base_sha256": base_of(self.feature_map, self.plan),
            "artefacts": {
                "feature_map": self._map_bytes,
                "whitening": Coordinates(self.feature_map.digest, self.whitening).to_bytes(),
                "bank": self._bank(self.directions[:count], np.ones(count)).to_bytes(),
            },
            "settings": order.settings,
        }

    def absorb(
        self, task: RoundTask, mean_update: Array, survivors: int, metrics: Mapping[str, float]
    ) -> Mapping[str, bytes]:
        """Take in one noisy mean and publish what follows from it."""
        noise, clip, k = noise_in(task, survivors, metrics), task.clip_norm, self.feature_map.dimension
        match task.settings["work"]:
            case "scales":
                unit = self._whiten(mean_update[k:], noise, clip)
                self._step(unit * (mean_update[:k] @ self.whitening), noise)
            case "shared" | "gradient":
                self._step(mean_update[:-1], noise)
                if self.tie_width > 0.0:  # dP(tie) / d eta is at most 1/2: a step that never overshoots
                    self.tie_width = max(1e-3, self.tie_width + 2.0 * mean_update[-1] / (NUMBER_WEIGHT * clip))
            case "moments":
                self._start_directions(untriangle(mean_update, k), noise, clip, survivors)
            case "choice":
                self._choose(mean_update, noise, clip, survivors)
        return {RELEASE: TasteRelease(self.bank, self.feature_map).to_bytes()}

    def _bank(self, rows: Array, spread: Array) -> Bank:
        digest, nobody = self.feature_map.digest, np.zeros((0, len(rows)))
        return Bank("reward", digest, self.shared, rows, spread, nobody, self.tie_width)

    def _whiten(self, numbers: Array, noise: float, clip: float) -> float:
        """Whitening, tie width and typical number of choices from the first round; returns the features' unit.

        Eigenvalues of the second moments that noise alone may explain (closer to their mean than the edge of its
        spectrum, sqrt(2 k) times its deviation) count as equal, a little above the mean: an underestimated one would
        make steps overshoot.
        """
        k, to_share = self.feature_map.dimension, TYPICAL_SHARE / (SHARE_WEIGHT * clip)
        values, vectors = np.linalg.eigh(untriangle(numbers[:-3] * to_share, k))
        total = max(float(values.sum()), 1e-3)
        beyond, edge = values / total - 1.0 / k, math.sqrt(2.0 * k) * noise * to_share / total
        values = 1.0 / k + np.sign(beyond) * np.maximum(np.abs(beyond) - edge, 0.0) + edge / 4.0
        octave, count, ties = numbers[-3:] / (SCALES_WEIGHT * clip)
        unit = float(2.0 ** (OCTAVES * np.clip(octave, -1.0, 1.0)))
        self.whitening = (vectors / np.sqrt(k * np.maximum(values, LEAST_SHARE / k))) @ vectors.T / unit
        self._typical_count = max(1.0, CENTRAL_COUNT * 2.0 ** (OCTAVES * float(np.clip(count, -1.0, 1.0))))
        if ties > DOUBT * noise / (SCALES_WEIGHT * clip) + 1e-9:
            self.tie_width = 2.0 * math.atanh(min(ties, 0.99))  # of people to whom all answers are equal
        return unit

    def _step(self, mean: Array, noise: float) -> None:
        """One preconditioned step of shared taste and directions along a noisy mean gradient (K + 1) * k."""
        k = self.feature_map.dimension
        full = k / (CURVATURE * math.sqrt(self._typical_count))
        steps = full * mean.reshape(-1, k)
        self.shared = self.shared + self._shared_error.rate(full * noise) * self.whitening @ steps[0]
        if len(steps) > 1:
            steps[1:] *= self._directions_error.rate(full * noise)
        self._set_directions(np.linalg.solve(self.whitening, self.directions.T).T + steps[1:])

    def _set_directions(self, white: Array) -> None:
        """Rotates L so that its rows are orthogonal in white features, the one that moves rewards most first."""
        if len(white):
            rows, lengths = orthonormal_rows(white)
            white = rows * np.asarray(lengths)[:, None]
        self.directions = white @ self.whitening

    def _start_directions(self, moments: Array, noise: float, clip: float, survivors: int) -> None:
        """L from the leading eigenvectors: in white features the moments are, in expectation, about
        ``CURVATURE * m / k^2 * L^T L`` for m choices a person (their own size without signal is divided out).

        Noise of both kinds, added and among people, lifts an eigenvalue l to l + s^2 / l for 2 s the largest of the
        noise alone (Benaych-Georges and Nadakuditi 2011, theorem 2.1 for Wigner matrices), which is taken back.
        """
        k = self.feature_map.dimension
        count = min(self.plan.maximum_count, k)
        values, vectors = np.linalg.eigh(moments)
        self.spectrum = values[::-1]
        self.noise_floor = 2.0 * math.hypot(noise * math.sqrt(k / 2.0), clip / math.sqrt(k * survivors))
        leading = np.maximum(self.spectrum[:count], 0.0)
        leading = (leading + np.sqrt(np.maximum(np.square(leading) - self.noise_floor**2, 0.0))) / 2.0
        lengths = k * np.sqrt(leading / (CURVATURE * self._typical_count))
        self._set_directions(lengths[:, None] * vectors.T[::-1][:count])

    def _choose(self, mean: Array, noise: float, clip: float, survivors: int) -> None:
        """The fewest directions with nearly the best gain, and their strength; none if no gain is beyond doubt.

        Noise widens no margin beyond NEARLY_BEST: a direction too many is kept short by its own spread and by the final
        rounds, one too few is lost (2,000 people at epsilon 2 would be left one of four).
        """
        self.gains = mean.reshape(len(STRENGTHS), -1)
        # One person's gains have a norm of at most clip, so this is about the most that people alone can vary a mean.
        among_people = clip / math.sqrt(survivors * mean.size)
        self.gain_deviation = math.hypot(noise, among_people)
        best = float(self.gains.max())
        if best <= DOUBT * self.gain_deviation:
            self.directions = self.directions[:0]
            return
        enough = self.gains.max(0) >= best * (1.0 - NEARLY_BEST)
        count = int(np.argmax(enough)) + 1
        strength = STRENGTHS[int(self.gains[:, count - 1].argmax())]
        self.directions = strength * self.directions[:count]


def base_of(feature_map: FeatureMap, plan: RewardPlan) -> str:
    """The model that the round's artefacts are signed for: the one behind the features, or what the plan names."""
    return plan.base_sha256 or feature_map.base_sha256 or feature_map.embedder_sha256 or feature_map.digest
