"""FFA-LoRA (Sun et al. 2024, arXiv 2403.12313): A stays at a public random value, only B is trained and summed.

With one A for everybody ``mean(B) A = mean(B A)``: sums are exact and noise stays linear. The price is that A never
learns which inputs matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from edge_runtime.adapters.adapter_file import Factors
from protocol.frames import Vector
from simulations.strategies.lora_training import TorchTexts
from simulations.strategies.strategy import AdaptedMaps, Strategy, Upload, pack, size_of, unpack


@dataclass(frozen=True)
class FfaLora(Strategy[Vector, TorchTexts]):
    """The state is all B's; A follows from the public seed. ``rate``: Adam's learning rate on the device."""

    maps: AdaptedMaps
    rate: float
    name: ClassVar[str] = "ffa_lora"

    @property
    def numbers_trained(self) -> int:
        """All of B."""
        return size_of(self.maps.b_shapes)

    def start(self) -> Vector:
        """B zero."""
        return pack(self.maps.zero_b())

    def dimension(self, state: Vector) -> int:
        """All of B."""
        return len(state)

    def release(self, state: Vector) -> bytes:
        """B; every device draws A for itself."""
        return self.maps.release(state)

    def upload(self, state: Vector, own: Any, data: TorchTexts, seed: int) -> Upload:
        """How far this person's texts move B."""
        trained = data.train(self.adapter(state, own), train_a=False, train_b=True, rate=self.rate, seed=seed)
        return Upload(pack(self.maps.split(trained.adapter)[1]) - state, trained.loss)

    def absorb(self, state: Vector, mean: Vector) -> Vector:
        """FedAvg of B, exact because A is common."""
        return state + mean

    def adapter(self, state: Vector, own: Any) -> Factors:
        """B times the public A."""
        return self.maps.factors(self.maps.random_a(), unpack(state, self.maps.b_shapes))
