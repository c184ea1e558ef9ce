"""A small fleet for tests: real devices, real keys, real crypto; only the training is replaced by a fixed
vector.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

import client.app
import client.stages
from client.enrol import enrol
from client.work import LocalUpdate
from edge_runtime.device import Device
from protocol.messages import RoundTask
from server.aggregate import RoundOutcome
from server.fleet import FleetSettings
from simulations.local_grid import LocalGrid

BASE_SHA256 = hashlib.sha256(b"a base model for tests").hexdigest()
DIMENSION = 40
_templates = TemporaryDirectory(prefix="penchant-test-devices-")


@cache
def _new_device(number: int) -> Path:
    """A fresh device, made once per test run: creating one waits for the disk many times, copying it does
    not.
    """
    home = Path(_templates.name) / f"{number:04d}"
    Device.open(home, create=True, key_method="file").close()
    return home


def make_fleet(folder: Path, people: int, **settings: Any) -> list[Path]:
    """Create `people` enrolled devices that share; returns their homes."""
    homes = [Path(copytree(_new_device(number), folder / f"{number:04d}")) for number in range(people)]
    devices = [Device.open(home) for home in homes]
    roster = [device.identity.public_bytes for device in devices]
    for number, device in enumerate(devices):
        device.vault.connection.execute("PRAGMA synchronous=OFF")
        device.change_settings(**{"share": True, "epsilon_budget": math.inf, "minimum_roster": 3, **settings})
        enrol(device, roster)
        device.vault.put_blob("test/number", str(number).encode())
        device.close()
    return homes


def number_of(device: Device) -> int:
    data = device.vault.get_blob("test/number")
    assert data is not None
    return int(data)


def vector_of(number: int, dimension: int) -> NDArray[np.float64]:
    """Person `number`'s update: fixed, of norm about 0.8."""
    draws = np.random.default_rng(1000 + number).normal(size=dimension)
    return 0.8 * draws / np.linalg.norm(draws)


class VectorWork:
    def __init__(self, device: Device) -> None:
        self.number = number_of(device)

    def compute(self, task: RoundTask, artefacts: Mapping[str, bytes]) -> LocalUpdate:
        assert set(artefacts) == set(task.artefacts)
        return LocalUpdate(vector_of(self.number, task.update_dimension), loss_sum=30.0, example_count=10)


class MeanAlgorithm:
    """Publishes the running sum of the means; every next round carries it as an artefact."""

    def __init__(self, dimension: int = DIMENSION, noise_multiplier: float | None = None) -> None:
        self.dimension, self.noise_multiplier = dimension, noise_multiplier
        self.total = np.zeros(dimension)

    def next_task(self, history: Sequence[RoundOutcome]) -> Mapping[str, Any] | None:
        plan: dict[str, Any] = {
            "kind": "shared",
            "dimension": self.dimension,
            "clip_norm": 1.0,
            "base_sha256": BASE_SHA256,
            "artefacts": {"shared": self.total.astype("<f8").tobytes()},
            "settings": {"learning_rate": 0.5},
        }
        return plan if self.noise_multiplier is None else {**plan, "noise_multiplier": self.noise_multiplier}

    def absorb(
        self, task: RoundTask, mean_update: NDArray[np.float64], survivors: int, metrics: Mapping[str, float]
    ) -> Mapping[str, bytes]:
        self.total = self.total + mean_update
        return {"shared": self.total.astype("<f8").tobytes()}


@contextmanager
def recorded_contributions() -> Iterator[dict[tuple[str, int], NDArray[np.int64]]]:
    """Replace training by `VectorWork` and note each device's integers before masking: {(task digest,
    person): x}.
    """
    seen: dict[tuple[str, int], NDArray[np.int64]] = {}
    original, factory = client.stages.contribute, client.app.work_factory
    current: list[int] = []

    def work(device: Device) -> VectorWork:
        current[:] = [number_of(device)]
        return VectorWork(device)

    def noting(task: RoundTask, update: LocalUpdate) -> NDArray[np.int64]:
        values = original(task, update)
        seen[(task.digest(), current[0])] = values
        return values

    client.stages.contribute, client.app.work_factory = noting, work
    try:
        yield seen
    finally:
        client.stages.contribute, client.app.work_factory = original, factory
        client.app.close_devices()


def settings_of(**changes: Any) -> FleetSettings:
    values: dict[str, Any] = {
        "run_id": "test",
        "rounds": 1,
        "noise_multiplier": 0.0,
        "delta": 1e-5,
        "stage_seconds": 30.0,
        **changes,
    }
    return FleetSettings(**values)


def grid_of(homes: Sequence[Path], **options: Any) -> LocalGrid:
    return LocalGrid(client.app.app, homes, **options)


def lost_at(plan: Mapping[str, set[int]]) -> Callable[[str, int], bool]:
    """A loss rule from {stage: partitions}."""
    return lambda stage, partition: partition in plan.get(stage, set())
