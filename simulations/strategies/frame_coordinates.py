"""Ours: U and V of every map are public and fixed, the d = maps * r * r coordinates are trained and summed.

A mean of coordinates is a mean of adapters, exactly (``protocol.frames``), and d does not grow with the model's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from client.local_training import LocalSettings, train_coordinates
from edge_runtime.adapters.adapter_file import Factors
from protocol.coordinates import Coordinates
from protocol.frames import Frame, Vector
from simulations.strategies.lora_training import TorchTexts
from simulations.strategies.strategy import Strategy, Upload


@dataclass(frozen=True)
class FrameCoordinates(Strategy[Vector, TorchTexts]):
    """``rate``: Adam's learning rate on the device."""

    frame: Frame
    rate: float
    name: ClassVar[str] = "frame_coordinates"

    @property
    def numbers_trained(self) -> int:
        """d."""
        return self.frame.dimension

    def start(self) -> Vector:
        """No change to the base."""
        return np.zeros(self.frame.dimension)

    def dimension(self, state: Vector) -> int:
        """d."""
        return self.frame.dimension

    def release(self, state: Vector) -> bytes:
        """The shared coordinates; the frame itself travels once in a fleet's life."""
        return Coordinates(self.frame.digest, state[None]).to_bytes()

    def upload(self, state: Vector, own: Any, data: TorchTexts, seed: int) -> Upload:
        """How far this person's texts move the coordinates."""
        settings = LocalSettings(data.epochs, data.batch_size, self.rate, seed)
        result = train_coordinates(data.model, self.frame, data.batch, state, settings)
        return Upload(result.theta - state, result.loss)

    def absorb(self, state: Vector, mean: Vector) -> Vector:
        """FedAvg, exact here."""
        return state + mean

    def adapter(self, state: Vector, own: Any) -> Factors:
        """The shared coordinates in the frame."""
        return self.frame.lora_factors(state)
