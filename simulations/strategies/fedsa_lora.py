"""FedSA-LoRA (Guo et al. 2024, arXiv 2410.01463): A is shared and summed, B never leaves its device.

A person's adapter is their own B on the fleet's A: a personal model, and only half of the numbers spend privacy. A
newcomer has no B, so the fleet's A alone changes nothing for them until they have trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from edge_runtime.adapters.adapter_file import Factors
from protocol.frames import Matrix, Vector
from simulations.strategies.lora_training import TorchTexts
from simulations.strategies.strategy import AdaptedMaps, Strategy, Upload, pack, size_of, unpack


@dataclass(frozen=True)
class FedSaLora(Strategy[Vector, TorchTexts]):
    """The state is all A's; a person's own part all their B's. ``rate``: Adam's learning rate on the device."""

    maps: AdaptedMaps
    rate: float
    name: ClassVar[str] = "fedsa_lora"

    @property
    def numbers_trained(self) -> int:
        """All of A and B."""
        return size_of(self.maps.a_shapes) + size_of(self.maps.b_shapes)

    def start(self) -> Vector:
        """The public random A."""
        return pack(self.maps.random_a())

    def join(self, person: int) -> list[Matrix]:
        """B zero."""
        return self.maps.zero_b()

    def dimension(self, state: Vector) -> int:
        """All of A."""
        return len(state)

    def release(self, state: Vector) -> bytes:
        """A."""
        return self.maps.release(state)

    def upload(self, state: Vector, own: Any, data: TorchTexts, seed: int) -> Upload:
        """How far this person's texts move A, while their B moves too and stays."""
        trained = data.train(self.adapter(state, own), train_a=True, train_b=True, rate=self.rate, seed=seed)
        lefts, rights = self.maps.split(trained.adapter)
        return Upload(pack(lefts) - state, trained.loss, rights)

    def absorb(self, state: Vector, mean: Vector) -> Vector:
        """The mean of A's."""
        return state + mean

    def adapter(self, state: Vector, own: Any) -> Factors:
        """The person's B on the fleet's A."""
        return self.maps.factors(unpack(state, self.maps.a_shapes), own)
