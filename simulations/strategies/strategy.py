"""What the fleet may sum instead of frame coordinates: one small interface for every way of sharing an adapter.

A strategy says what the server keeps (``start``, ``absorb``), what it sends down before a sum (``release``), what a
device offers (``upload``: one vector, which is then clipped, noised and masked like any other) and which adapter a
person ends up with (``adapter``). Nothing here imports torch: a strategy that needs gradients asks its data for them.

An adapter is always LoRA factors, ``delta W = B A`` with A (r, in) and B (out, r) per adapted map and no further scale,
so that every strategy is judged by the same scoring.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_runtime.adapters.adapter_file import Factors
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.frames import Matrix, Vector

PUBLIC_SEED = 2024  # what every device draws the same: initial factors, sketches


class ForwardTexts(Protocol):
    """One person's training texts on a device that can only run the model forwards."""

    @property
    def count(self) -> int:
        """How many texts there are."""
        ...

    def loss(self, adapter: Factors, rows: Sequence[int]) -> float:
        """Nats per token of the texts ``rows`` under an adapter."""
        ...


Data = TypeVar("Data", contravariant=True)
State = TypeVar("State")


@dataclass(frozen=True)
class Upload:
    """A device's contribution before clipping: ``vector`` (d,), its ``loss`` (nats per token) before training, and
    what the device keeps for itself (``own``)."""

    vector: Vector
    loss: float
    own: Any = None


class Strategy(ABC, Generic[State, Data]):
    """One way of sharing. ``sums_per_round`` secure sums make one round (one of training)."""

    name: ClassVar[str]
    sums_per_round: ClassVar[int] = 1

    @property
    @abstractmethod
    def numbers_trained(self) -> int:
        """Numbers that a device changes while it trains."""

    @abstractmethod
    def start(self) -> State:
        """The server's state before the first sum."""

    def join(self, person: int) -> Any:
        """What person number ``person`` keeps on the device before the first sum."""
        return None

    @abstractmethod
    def dimension(self, state: State) -> int:
        """Length d of the vectors of the next sum."""

    @abstractmethod
    def release(self, state: State) -> bytes:
        """What a device must get before the next sum."""

    @abstractmethod
    def upload(self, state: State, own: Any, data: Data, seed: int) -> Upload:
        """One device's contribution to the next sum; ``seed`` orders its texts."""

    @abstractmethod
    def absorb(self, state: State, mean: Vector) -> State:
        """The state after a sum with this (noisy) mean (d,)."""

    @abstractmethod
    def adapter(self, state: State, own: Any) -> Factors:
        """The adapter that a person serves with."""


@dataclass(frozen=True)
class AdaptedMaps:
    """The adapted linear maps of a model, by GGUF name, with their (out, in), and the rank of their factors."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    rank: int

    @property
    def a_shapes(self) -> list[tuple[int, int]]:
        """(r, in) of every A."""
        return [(self.rank, columns) for _, columns in self.shapes]

    @property
    def b_shapes(self) -> list[tuple[int, int]]:
        """(out, r) of every B."""
        return [(rows, self.rank) for rows, _ in self.shapes]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of names, shapes and rank: the space in which a release's numbers mean something."""
        return hashlib.sha256(repr((self.names, self.shapes, self.rank)).encode()).hexdigest()

    def random_a(self) -> list[Matrix]:
        """The public initial A's: rows of expected unit length, the same on every device."""
        draw = np.random.default_rng(PUBLIC_SEED)
        return [(draw.normal(size=shape) / np.sqrt(shape[1])).astype(np.float32) for shape in self.a_shapes]

    def zero_b(self) -> list[Matrix]:
        """The initial B's: an adapter that changes nothing."""
        return [np.zeros(shape, np.float32) for shape in self.b_shapes]

    def factors(self, lefts: Sequence[Matrix], rights: Sequence[Matrix]) -> Factors:
        """The adapter of these A's and B's."""
        return {name: (a, b) for name, a, b in zip(self.names, lefts, rights, strict=True)}

    def split(self, adapter: Factors) -> tuple[list[Matrix], list[Matrix]]:
        """(A's, B's) in the order of ``names``."""
        return [adapter[name][0] for name in self.names], [adapter[name][1] for name in self.names]

    def release(self, numbers: Vector) -> bytes:
        """Numbers of this space as they are sent down: float32."""
        return Coordinates(self.digest, numbers[None]).to_bytes()


def size_of(shapes: Sequence[tuple[int, int]]) -> int:
    """How many numbers matrices of these shapes hold."""
    return sum(rows * columns for rows, columns in shapes)


def pack(matrices: Sequence[NDArray[Any]]) -> Vector:
    """Matrices one after the other as a vector of float64."""
    return np.concatenate([matrix.ravel() for matrix in matrices]).astype(np.float64)


def unpack(vector: Vector, shapes: Sequence[tuple[int, int]]) -> list[Matrix]:
    """The inverse of ``pack``, as float32."""
    if len(vector) != size_of(shapes):
        raise PenchantError(f"{len(vector)} numbers do not fill matrices of {size_of(shapes)}: another model's update")
    ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
    parts = np.split(vector, ends)
    return [part.reshape(shape).astype(np.float32) for part, shape in zip(parts, shapes, strict=True)]
