"""A fixed pool of public directions, so that K numbers stand for an update of any length (FedKSeed).

After Qin et al. 2023 (arXiv 2312.06353): the fleet agrees on K seeds, seed k stands for a direction ``z_k`` (d,), and
whoever moves along directions of the pool only needs to say how far along each: K scalars, whatever d is. Server and
devices rebuild the same ``theta = sum_k scalars_k z_k``, and since that is linear, the mean of people's scalars is
the mean of their updates. The K scalars are a vector like any other: they are clipped, noised and masked together.

    z_k = signs / sqrt(d), signs in {-1, +1}^d from AES-256-CTR of the pool's seed: unit length, and equal to the last
    bit on every machine (a numerical library's Gaussian generator is not, from one version to the next)
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import cbor2
import numpy as np

from protocol.errors import ProtocolError
from protocol.frames import Vector
from protocol.masks import keystream

MAXIMUM_COUNT = 1 << 16


@dataclass(frozen=True)
class SeedPool:
    """``count`` K directions of ``dimension`` d numbers each, from one public ``seed`` of 32 bytes."""

    seed: bytes
    count: int
    dimension: int

    def __post_init__(self) -> None:
        if len(self.seed) != 32 or not 1 <= self.count <= MAXIMUM_COUNT or self.dimension < 1:
            raise ProtocolError(f"a pool needs a seed of 32 bytes, 1 to {MAXIMUM_COUNT} directions and a dimension")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that the directions follow from; releases of scalars name it."""
        body = {"format": "penchant-seeds-1", "seed": self.seed, "count": self.count, "dimension": self.dimension}
        return hashlib.sha256(cbor2.dumps(body, canonical=True)).hexdigest()

    def direction(self, index: int) -> Vector:
        """z_k (d,), of unit length. Raises ProtocolError outside the pool."""
        if not 0 <= index < self.count:
            raise ProtocolError(f"the pool has directions 0 to {self.count - 1}, not {index}")
        raw = keystream(self.seed, f"seed-scalars/{index}", (self.dimension + 7) // 8)
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=self.dimension)
        return np.asarray((2.0 * bits - 1.0) / math.sqrt(self.dimension), dtype=np.float64)

    def rebuild(self, scalars: Vector) -> Vector:
        """sum_k scalars_k z_k (d,) from scalars (K,). The pool is never held in memory as a whole."""
        if scalars.shape != (self.count,) or not np.isfinite(scalars).all():
            raise ProtocolError(f"this pool takes {self.count} finite scalars, got {scalars.shape}")
        theta: Vector = np.zeros(self.dimension)
        for index in np.flatnonzero(scalars):
            theta += float(scalars[index]) * self.direction(int(index))
        return theta
