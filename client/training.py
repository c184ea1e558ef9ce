"""What a device computes for a round: its own training, in the frame, on the file that serves.

``shared`` rounds: the device trains the fleet's adapter on its own texts and offers the difference (d,).
``bases`` rounds (blind subspace iteration): with ``delta_u`` (d,) the device's personal residual on top of the shared
adapter and ``w_u`` (K,) its weights on the round's public rows, it offers ``w_u (x) delta_u`` (K d,), bounded as in
`protocol.subspace_sketch`. Neither leaves the device.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from hashlib import sha256
from typing import TypeVar

import numpy as np

from client.examples import device_examples, prepare_input
from client.local_training import LocalSettings, evaluate_coordinates, train_coordinates
from client.torch_model import Batch, TorchModel
from client.work import LocalUpdate
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile, find_model
from edge_runtime.store.vault import LEARNT_PREFIX
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector
from protocol.messages import RoundTask
from protocol.subspace_sketch import sketch_contribution

Settings = Mapping[str, float | int | str]  # of a task
Plan = TypeVar("Plan")


@dataclass(frozen=True)
class TrainingPlan:
    """Public training settings of a task: how much text, how far, how fast."""

    top_layers: int = 4
    messages: int = 10
    choices: int = 5
    max_tokens: int = 96
    epochs: int = 1
    batch_size: int = 5
    learning_rate: float = 0.05
    residual_epochs: int = 2

    @staticmethod
    def of(settings: Settings) -> TrainingPlan:
        """Read a task's settings."""
        return read_plan(TrainingPlan, settings)

    def settings(self) -> dict[str, float | int | str]:
        """The plan as a task's settings."""
        return asdict(self)


def read_plan(plan: Callable[..., Plan], settings: Settings) -> Plan:
    """A task's settings as this dataclass, each in the type of its default; unknown names are an error, because both
    sides must mean the same."""
    known: dict[str, Callable[..., object]] = {field.name: type(field.default) for field in fields(plan)}  # type: ignore
    if unknown := sorted(set(settings) - set(known)):
        raise PenchantError(f"this device does not know the training setting {unknown[0]}; update it")
    return plan(**{name: known[name](value) for name, value in settings.items()})


@dataclass
class Trainer:
    """The serving file opened for training: torch for gradients, llama.cpp for its tokeniser and template."""

    model: ModelFile
    torch_model: TorchModel
    engine: Engine

    def batch_of(self, device: Device, plan: TrainingPlan) -> Batch:
        """The device's texts, prepared; kept in memory while the process lives, keyed by what they say."""
        examples = device_examples(self.engine, device, messages=plan.messages, choices=plan.choices)
        key = (str(device.home), hash(tuple(examples)), plan.max_tokens)
        if key not in _batches:
            _batches[key] = self.torch_model.prepare(prepare_input(examples), max_tokens=plan.max_tokens)
        return _batches[key]


_batches: dict[tuple[str, int, int], Batch] = {}
_training_lock = threading.Lock()


def forget_batches() -> None:
    """Drop all prepared texts from memory (after a forget, and when a simulation is done with training)."""
    _batches.clear()


def serving_model() -> ModelFile:
    """The model that PENCHANT_MODEL names, else the bundled one."""
    chosen = os.environ.get("PENCHANT_MODEL")
    return find_model(chosen) if chosen else find_model()


@lru_cache(maxsize=1)
def open_trainer(top_layers: int) -> Trainer:
    """The trainer of this process, on the serving model."""
    model = serving_model()
    torch_model = TorchModel.load(model.path, top_layers=top_layers)
    return Trainer(model, torch_model, Engine.open(model, vocabulary_only=True))


class DeviceWork:
    """``client.work.LocalWork`` for a real device."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def compute(self, task: RoundTask, artefacts: Mapping[str, bytes]) -> LocalUpdate:
        """Train for one round. Raises PenchantError if task, model and artefacts do not belong together."""
        plan = TrainingPlan.of(task.settings)
        frame = Frame.from_bytes(artefacts["frame"])
        if frame.base_sha256 != task.base_sha256 or frame.dimension != task.dimension:
            raise PenchantError("the round's frame was made for another model; this device takes no part")
        shared = Coordinates.from_bytes(artefacts["shared"], frame_sha256=frame.digest, dimension=frame.dimension).rows[
            0
        ]
        with _training_lock:
            trainer = open_trainer(plan.top_layers)
            if trainer.model.sha256 != task.base_sha256:
                raise PenchantError("the fleet trains another model file than the one on this device")
            batch = trainer.batch_of(self._device, plan)
            if task.kind == "shared":
                seed = task.round
                local = LocalSettings(plan.epochs, plan.batch_size, plan.learning_rate, seed)
                result = train_coordinates(trainer.torch_model, frame, batch, shared, local)
                return LocalUpdate(result.theta - shared, result.loss, 1)
            residual, loss = residual_of(self._device, trainer, frame, shared, plan, batch)
        rows = Coordinates.from_bytes(artefacts["bases"], frame_sha256=frame.digest, dimension=frame.dimension).rows
        noisy = task.noise_multiplier > 0.0
        return LocalUpdate(sketch_contribution(rows, residual, task.clip_norm, noisy=noisy), loss, 1)


def residual_of(
    device: Device, trainer: Trainer, frame: Frame, shared: Vector, plan: TrainingPlan, batch: Batch
) -> tuple[Vector, float]:
    """The device's personal residual on the shared adapter (d,) and the shared adapter's loss on its texts.

    Trained once per shared adapter, texts and plan, and kept in the encrypted file; what is returned is always what
    was stored, so that a restart changes no bit.
    """
    version = Coordinates(frame.digest, shared[None]).to_bytes() + repr(plan).encode() + text_bytes(batch)
    name = f"{LEARNT_PREFIX}residual/{_short_digest(version)}"
    stored = device.vault.get_blob(name)
    if stored is None:
        local = LocalSettings(plan.residual_epochs, plan.batch_size, plan.learning_rate, seed=0)
        loss = evaluate_coordinates(trainer.torch_model, frame, batch, shared)
        residual = train_coordinates(trainer.torch_model, frame, batch, shared, local).theta - shared
        stored = Coordinates(frame.digest, np.append(residual, loss)[None]).to_bytes()
        device.vault.put_blob(name, stored)
    row = Coordinates.from_bytes(stored, frame_sha256=frame.digest, dimension=frame.dimension + 1).rows[0]
    return row[:-1], float(row[-1])


def text_bytes(batch: Batch) -> bytes:
    """Bytes that differ when the texts of a batch differ: the words and places of everything it trains on."""
    return batch.targets.numpy().tobytes()


def _short_digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:16]
