"""Seeds and scalars (FedKSeed, Qin et al. 2023, arXiv 2312.06353): forward passes only, K numbers up.

Every step of a device picks one of K public directions z_k of the frame (``protocol.seed_scalars``) and measures the
slope of its loss along it by two forward passes, as in SPSA and MeZO (Spall 1992; Malladi et al. 2023):

    rho = (L(theta + eps z_k) - L(theta - eps z_k)) / (2 eps),   theta <- theta - rate rho z_k,   a_k <- a_k - rate rho

In expectation over the pool that is a step along the gradient, shorter by K's share of the d dimensions. The device
sends the K accumulated scalars ``a``; they are one vector, so one clip and one noise cover it (the paper has neither).
Needs no torch: ``EngineTexts`` measures with llama.cpp, an adapter of the frame loaded from memory for each pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, ClassVar

import numpy as np

from edge_runtime.adapters.adapter_file import AdapterMetadata, Factors, write_adapter
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelShape, read_model_shape
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector
from protocol.seed_scalars import SeedPool
from simulations.strategies.strategy import ForwardTexts, Strategy, Upload


@dataclass(frozen=True)
class SeedScalars(Strategy[Vector, ForwardTexts]):
    """``steps`` of ``batch_size`` texts each along directions of ``pool``; ``distance`` eps and ``rate`` as above, in
    units of the frame's coordinates."""

    frame: Frame
    pool: SeedPool
    rate: float
    steps: int
    batch_size: int = 4
    distance: float = 0.5
    name: ClassVar[str] = "seed_scalars"

    def __post_init__(self) -> None:
        if self.pool.dimension != self.frame.dimension:
            raise PenchantError("the pool's directions are not of the frame's length: make a pool for this frame")
        if not 1 <= self.steps <= self.pool.count or self.batch_size < 1:
            raise PenchantError(f"a device takes 1 to {self.pool.count} steps, each along another direction")

    @property
    def numbers_trained(self) -> int:
        """K: the update lies in the span of the pool."""
        return self.pool.count

    def start(self) -> Vector:
        """All scalars zero."""
        return np.zeros(self.pool.count)

    def dimension(self, state: Vector) -> int:
        """K."""
        return self.pool.count

    def release(self, state: Vector) -> bytes:
        """The scalars so far: seeds and scalars are the whole adapter."""
        return Coordinates(self.pool.digest, state[None]).to_bytes()

    def upload(self, state: Vector, own: Any, data: ForwardTexts, seed: int) -> Upload:
        """How far this person's texts move along each direction; ``seed`` picks directions and texts."""
        draw = np.random.default_rng(seed)
        theta = self.pool.rebuild(state)
        moved = np.zeros(self.pool.count)
        losses = []
        for index in draw.permutation(self.pool.count)[: self.steps]:
            direction = self.pool.direction(int(index))
            rows = draw.permutation(data.count)[: self.batch_size]
            ahead, behind = (
                data.loss(self.frame.lora_factors(theta + sign * self.distance * direction), [int(row) for row in rows])
                for sign in (1.0, -1.0)
            )
            step = -self.rate * (ahead - behind) / (2.0 * self.distance)
            moved[index] += step
            theta = theta + step * direction
            losses.append((ahead + behind) / 2.0)
        return Upload(moved, float(np.mean(losses)))

    def absorb(self, state: Vector, mean: Vector) -> Vector:
        """FedAvg of the scalars, which is FedAvg of the updates."""
        return state + mean

    def adapter(self, state: Vector, own: Any) -> Factors:
        """The adapter that seeds and scalars stand for."""
        return self.frame.lora_factors(self.pool.rebuild(state))


@dataclass
class EngineTexts:
    """One person's texts (tokens, prompt length) scored by llama.cpp; ``strategy.ForwardTexts`` without torch."""

    engine: Engine
    texts: Sequence[tuple[Sequence[int], int]]
    _shape: ModelShape = field(init=False)

    def __post_init__(self) -> None:
        self._shape = read_model_shape(self.engine.model.path)

    @property
    def count(self) -> int:
        """How many texts there are."""
        return len(self.texts)

    def loss(self, adapter: Factors, rows: Sequence[int]) -> float:
        """Nats per token of the texts ``rows`` under an adapter; what the engine had in use before is dropped."""
        data = adapter_file(adapter, self.engine.model.sha256, self._shape)
        loaded = self.engine.load_adapter(data, sha256=sha256(data).hexdigest())
        self.engine.use_adapters([(loaded, 1.0)])
        try:
            scores = [self._score(*self.texts[row]) for row in rows]
        finally:
            self.engine.use_adapters([])
            self.engine.unload_adapter(loaded)
        values = np.concatenate(scores)
        return -float(values.mean())

    def _score(self, tokens: Sequence[int], prompt_length: int) -> Vector:
        (scores,) = self.engine.score(list(tokens[:prompt_length]), [list(tokens[prompt_length:])])
        return scores


def adapter_file(adapter: Factors, base_sha256: str, shape: ModelShape) -> bytes:
    """An adapter of a strategy as a GGUF that llama.cpp reads. No privacy is claimed for it."""
    return write_adapter(
        adapter,
        alpha=0.0,  # no factor alpha / r: the factors' product is the change
        metadata=AdapterMetadata(base_sha256=base_sha256, frame_sha256=""),
        architecture=shape.architecture,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
    )
