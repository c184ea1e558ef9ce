"""What follows from a `RoundTask`: layout, codec, noise, privacy event; and how to plan one.

Devices and server derive these from the task alone; nothing else about the mechanism travels.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from protocol.accounting import PrivacyEvent
from protocol.clipping import JointLayout, JointMean
from protocol.codec import VectorCodec, choose_scale
from protocol.discrete_gaussian import DistributedDiscreteGaussian
from protocol.distributed_noise import DistributedNoise, Mechanism
from protocol.errors import ProtocolError
from protocol.graph import plan_graph
from protocol.matrix_factorisation import BandedStrategy
from protocol.messages import RoundTask
from protocol.skellam import DistributedSkellam

NOISES: dict[Mechanism, type[DistributedNoise]] = {
    noise.mechanism: noise for noise in (DistributedSkellam, DistributedDiscreteGaussian)
}
_planned_graph = lru_cache(maxsize=64)(plan_graph)  # tenths of a second for thousands of people, the same every round


@dataclass(frozen=True)
class RoundPlan:
    """The mechanism of one round: `RoundPlan.of(task)`, `contribute` on devices, `decode` on the server.

    `age` is a person's: rounds since the start of the participation that this upload belongs to
    (`matrix_factorisation`; always 0 with independent noise).
    """

    task: RoundTask
    layout: JointLayout
    codec: VectorCodec
    noise: DistributedNoise
    strategy: BandedStrategy

    @staticmethod
    def of(task: RoundTask) -> RoundPlan:
        """The plan that the task describes."""
        layout = JointLayout(task.update_dimension)
        codec = VectorCodec(
            dimension=layout.dimension,
            clip_norm=layout.joint_norm(task.clip_norm),
            scale=task.scale,
            ring_bits=task.ring_bits,
            rotation_seed=task.rotation_seed,
        )
        noise = NOISES[task.mechanism](task.noise_multiplier, codec.rounded_sensitivity, task.minimum_survivors)
        return RoundPlan(task, layout, codec, noise, BandedStrategy(task.strategy))

    def contribute(
        self,
        update: NDArray[np.float64],
        loss_sum: float,
        example_count: int,
        *,
        age: int = 0,
        rounding_rng: np.random.Generator | None = None,
        noise_rng: np.random.Generator | None = None,
    ) -> NDArray[np.int64]:
        """Clip, join, weigh, rotate, round, add this person's noise: integers (layout.dimension,), to be masked.

        The generators are for tests; by default both are seeded from the operating system.
        """
        joint, _ = self.layout.pack(update, loss_sum, example_count, self.task.clip_norm)
        rounding = rounding_rng if rounding_rng is not None else np.random.default_rng(secrets.randbits(256))
        codec = self._codec_at(age)
        weighted = self.strategy.coefficients[age] * joint
        return codec.encode(weighted, rounding) + self.noise.sample_share(self.layout.dimension, noise_rng)

    def decode(self, ring_sum: NDArray[np.unsignedinteger], survivors: int) -> JointMean:
        """Noisy means over the survivors from the recovered sum mod 2^b."""
        if survivors < self.task.minimum_survivors:
            raise ProtocolError(f"{survivors} survivors, the noise needs {self.task.minimum_survivors}")
        return self.layout.unpack(self.codec.decode(ring_sum), survivors, self.task.clip_norm)

    def privacy_event(self, sampling_probability: float = 1.0, *, age: int = 0) -> PrivacyEvent:
        """What one such release spends, at the noise of the smallest cohort that devices accept.

        The noise is the same for everybody; at a later age it covers a shorter vector.
        """
        codec = self._codec_at(age)
        return PrivacyEvent(
            noise_multiplier=self.task.noise_multiplier * self.codec.rounded_sensitivity / codec.rounded_sensitivity,
            sampling_probability=sampling_probability,
            l2_sensitivity=codec.rounded_sensitivity,
            l1_sensitivity=codec.rounded_l1_sensitivity,
            mechanism=self.task.mechanism,
            shares=self.task.minimum_survivors,
        )

    def _codec_at(self, age: int) -> VectorCodec:
        """The codec for c_age times a joint vector: a smaller bound, checked while rounding."""
        if not 0 <= age < self.strategy.bands:
            raise ProtocolError(f"this round sums participations of age 0 to {self.strategy.bands - 1}, not {age}")
        return replace(self.codec, clip_norm=self.codec.clip_norm * self.strategy.coefficients[age])

    @property
    def update_noise_deviation(self) -> float:
        """Standard deviation of the noise on each value of the *sum* of updates, at the smallest cohort."""
        return math.sqrt(self.noise.total_variance(self.task.minimum_survivors)) / self.task.scale


def plan_task(
    *,
    run_id: str,
    round: int,
    kind: Literal["shared", "bases"],
    artefacts: dict[str, str],
    base_sha256: str,
    dimension: int,
    clip_norm: float,
    noise_multiplier: float,
    cohort_size: int,
    minimum_survivors: int,
    delta: float,
    space: Literal["adapter", "reward"] = "adapter",
    basis_count: int = 1,
    attempt: int = 0,
    ring_bits: int = 16,
    dropout_fraction: float = 1 / 3,
    vanishing_stages: int = 2,
    settings: dict[str, int | float | str] | None = None,
    mechanism: Mechanism = "skellam",
    spacing: int = 1,
    strategy: tuple[float, ...] = (1.0,),
    rotation_seed: int | None = None,
    graph_seed: int | None = None,
) -> RoundTask:
    """A consistent task: a scale that fills the ring, a graph for the dropouts planned, fresh seeds.

    Updates must not depend on the rotation seed (the overflow bound assumes it), so it is drawn anew for each
    attempt unless one is given (simulations that must repeat).
    """
    layout = JointLayout(dimension * (basis_count if kind == "bases" else 1))
    graph = _planned_graph(cohort_size, dropout_fraction, vanishing_stages=vanishing_stages)
    scale = choose_scale(
        dimension=layout.dimension,
        clip_norm=layout.joint_norm(clip_norm),
        noise_multiplier=noise_multiplier,
        cohort_size=cohort_size,
        minimum_survivors=minimum_survivors,
        ring_bits=ring_bits,
    )
    return RoundTask(
        run_id=run_id,
        round=round,
        attempt=attempt,
        kind=kind,
        space=space,
        artefacts=artefacts,
        base_sha256=base_sha256,
        dimension=dimension,
        basis_count=basis_count,
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
        minimum_survivors=minimum_survivors,
        cohort_size=cohort_size,
        scale=scale,
        ring_bits=ring_bits,
        rotation_seed=secrets.randbits(63) if rotation_seed is None else rotation_seed,
        graph_seed=secrets.randbits(63) if graph_seed is None else graph_seed,
        graph_degree=graph.degree,
        graph_threshold=graph.threshold,
        delta=delta,
        mechanism=mechanism,
        spacing=spacing,
        strategy=strategy,
        settings=settings or {},
    )
