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
from client.enrol import enrol, pinned_fleet
from client.work import LocalUpdate
from edge_runtime.device import Device
from protocol.fleet_trust import FleetAuthority
from protocol.keys import SigningKey
from protocol.messages import RoundTask
from server import fleet as server_fleet
from server.aggregate import RoundOutcome
from server.credentials import ServerCredentials
from server.fleet import FleetResult, FleetSettings
from simulations.experiments.local_grid import LocalGrid

BASE_SHA256 = hashlib.sha256(b"a base model for tests").hexdigest()
DIMENSION = 40
AUTHORITY = FleetAuthority("test-fleet", SigningKey.generate())
SERVER_KEY = SigningKey.generate()
CERTIFICATE = AUTHORITY.certify(SERVER_KEY.public_bytes)
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
    roster = AUTHORITY.enrol(device.identity.public_bytes for device in devices)
    for number, device in enumerate(devices):
        device.vault.connection.execute("PRAGMA synchronous=OFF")
        device.change_settings(**{"share": True, "epsilon_budget": math.inf, "minimum_roster": 3, **settings})
        enrol(device, AUTHORITY.invitation, roster)
        device.vault.put_blob("test/number", str(number).encode())
        device.close()
    return homes


def credentials_of(homes: Sequence[Path]) -> ServerCredentials:
    """The server's, for the members' list that the first of these devices has pinned."""
    with Device.open(homes[0]) as device:
        fleet = pinned_fleet(device)
    return ServerCredentials(fleet.invitation, SERVER_KEY, CERTIFICATE, AUTHORITY.enrol(fleet.members, fleet.serial))


def in_fleet(task: RoundTask, serial: int = 1) -> RoundTask:
    """The task, as one of the test fleet's."""
    return task.model_copy(update={"fleet_id": AUTHORITY.fleet_id, "roster_serial": serial})


def run_fleet(grid: LocalGrid, settings: FleetSettings, out: Path, algorithm: Any, **options: Any) -> FleetResult:
    """`server.fleet.run_fleet` with the credentials of the grid's fleet, unless others are given."""
    if "credentials" not in options:
        options["credentials"] = credentials_of(grid.homes)
    return server_fleet.run_fleet(grid, settings, out, algorithm, **options)


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

    def noting(task: RoundTask, update: LocalUpdate, *, age: int = 0) -> NDArray[np.int64]:
        values = original(task, update, age=age)
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
