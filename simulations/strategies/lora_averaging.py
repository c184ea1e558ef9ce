"""The usual and wrong way: devices train A and B, the server averages A's and B's apart.

``mean(B) mean(A)`` is not ``mean(B A)``: the difference is the covariance of people's factors, so it is the larger the
more people differ; under noise the product also has a term of noise times noise (Sun et al. 2024, arXiv 2403.12313).
Here as the baseline that everybody uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from edge_runtime.adapters.adapter_file import Factors
from protocol.frames import Vector
from simulations.strategies.lora_training import TorchTexts
from simulations.strategies.strategy import AdaptedMaps, Strategy, Upload, pack, size_of, unpack


@dataclass(frozen=True)
class LoraAveraging(Strategy[Vector, TorchTexts]):
    """The state is all A's, then all B's; ``rate`` is Adam's learning rate on the device."""

    maps: AdaptedMaps
    rate: float
    name: ClassVar[str] = "lora_averaging"

    @property
    def numbers_trained(self) -> int:
        """All of A and B."""
        return size_of(self._shapes)

    def start(self) -> Vector:
        """A public and random, B zero."""
        return pack([*self.maps.random_a(), *self.maps.zero_b()])

    def dimension(self, state: Vector) -> int:
        """All of A and B."""
        return len(state)

    def release(self, state: Vector) -> bytes:
        """A and B."""
        return self.maps.release(state)

    def upload(self, state: Vector, own: Any, data: TorchTexts, seed: int) -> Upload:
        """How far this person's texts move A and B."""
        trained = data.train(self.adapter(state, own), train_a=True, train_b=True, rate=self.rate, seed=seed)
        lefts, rights = self.maps.split(trained.adapter)
        return Upload(pack([*lefts, *rights]) - state, trained.loss)

    def absorb(self, state: Vector, mean: Vector) -> Vector:
        """The mean of A's and the mean of B's."""
        return state + mean

    def adapter(self, state: Vector, own: Any) -> Factors:
        """The product of the means."""
        parts = unpack(state, self._shapes)
        count = len(self.maps.names)
        return self.maps.factors(parts[:count], parts[count:])

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        return [*self.maps.a_shapes, *self.maps.b_shapes]
