"""`penchant bench wire`: bytes per person and round of every strategy of `simulations.strategies`.

Nothing trains: the dimensions are those of a default fleet (rank 8 on the output maps of the top 8 layers of the
default model) and a person's update is a random vector. All else is the deployment: 20 devices with their vaults and
keys, the two apps, signed releases down, clipped, noised, masked vectors up at 16 bits per value; every byte counts, of
every stage, Flower's envelopes included. Frames and members' lists travel once in a fleet's life and are not in these
figures.

Peer: FedAvg of A and B as Flower sends them, float32 both ways, without noise and with everything visible to the
server.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr is imported: no fleet reports home

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

import client.app as client_app
from client.work import LocalUpdate
from edge_runtime.models.catalogue import find_model, read_model_header, read_model_shape
from protocol.errors import PenchantError
from protocol.frames import Frame
from protocol.messages import RoundTask
from protocol.seed_scalars import SeedPool
from server.aggregate import RoundOutcome
from server.credentials import ServerCredentials
from server.fleet import FleetSettings, run_fleet
from simulations.bench.case import Case
from simulations.bench.runner import OnProgress
from simulations.bench.setting import ADAPTED_LAYERS, RANK
from simulations.experiments.homes import create_homes
from simulations.experiments.local_grid import LocalGrid
from simulations.people import Person
from simulations.strategies.exact_product import ExactProduct
from simulations.strategies.fedsa_lora import FedSaLora
from simulations.strategies.ffa_lora import FfaLora
from simulations.strategies.frame_coordinates import FrameCoordinates
from simulations.strategies.lora_averaging import LoraAveraging
from simulations.strategies.seed_scalars import SeedScalars
from simulations.strategies.strategy import AdaptedMaps, Strategy

PEOPLE: Final = 20
POOL_COUNT: Final = 1024  # FedKSeed's own choice
PRODUCT_RANKS: Final = (2, 4, 8)
_CLIP_NORM, _NOISE_MULTIPLIER = 1.0, 1.0


@dataclass(frozen=True)
class WireBytes:
    """Mean bytes per person in one round; `collect_up` is the message with the masked vector alone, `values` how many
    numbers are summed."""

    up: float
    down: float
    collect_up: float
    values: int


def run(on_progress: OnProgress, people: int = PEOPLE) -> dict[str, Case]:
    """Bytes up per person and round for every strategy; what goes down stands beside it."""
    strategies, maps = default_strategies()
    peer = flower_bytes(maps, people)
    on_progress("FedAvg of A and B through Flower", 1.0)
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        homes, credentials = empty_homes(Path(folder), people)
        for strategy in strategies:
            measured = measure(strategy, homes, credentials, Path(folder) / strategy.name)
            cases[strategy.name] = Case(measured.up, peer.up, "B", _more(strategy, measured, peer))
            on_progress(strategy.name, 1.0)
    return cases


def _more(strategy: Strategy[Any, Any], measured: WireBytes, peer: WireBytes) -> dict[str, Any]:
    return {
        "bytes_down": measured.down,
        "peer_bytes_down": peer.down,
        "collect_bytes": measured.collect_up,
        "values": measured.values,
        "numbers_trained": strategy.numbers_trained,
    }


def default_maps() -> AdaptedMaps:
    """The adapted maps of a default fleet on the default model."""
    path = find_model().path
    shape = read_model_shape(path)
    inner = int(read_model_header(path).metadata[f"{shape.architecture}.feed_forward_length"])
    inputs = {"attn_output": shape.width, "ffn_down": inner}
    layers = range(shape.layers - ADAPTED_LAYERS, shape.layers)
    names = tuple(f"blk.{layer}.{kind}" for layer in layers for kind in inputs)
    shapes = tuple((shape.width, inputs[name.rsplit(".", 1)[1]]) for name in names)
    return AdaptedMaps(names, shapes, RANK)


def default_strategies() -> tuple[list[Strategy[Any, Any]], AdaptedMaps]:
    """Every strategy at the size of a default fleet, and the maps that they adapt."""
    maps, rate = default_maps(), 0.0
    draw = np.random.default_rng(0)
    left, right = (
        tuple(np.linalg.qr(draw.normal(size=(length, RANK)))[0].astype(np.float32) for length in lengths)
        for lengths in zip(*maps.shapes, strict=True)
    )
    frame = Frame(find_model().sha256, RANK, 1.0, maps.names, left, tuple(v.T for v in right))
    pool = SeedPool(bytes(32), POOL_COUNT, frame.dimension)
    return [
        FrameCoordinates(frame, rate),
        LoraAveraging(maps, rate),
        FfaLora(maps, rate),
        FedSaLora(maps, rate),
        ExactProduct(maps, PRODUCT_RANKS, RANK, rate),
        SeedScalars(frame, pool, rate, steps=1),
    ], maps


def empty_homes(folder: Path, people: int) -> tuple[list[Path], ServerCredentials]:
    """Enrolled devices that hold nothing but keys."""
    nobody = [Person(f"person-{number}", "", "", "fleet", (), (), (), (), ()) for number in range(people)]
    return create_homes(nobody, folder / "devices", epsilon_budget=float("inf"), delta=1e-5)


class _Rounds:
    """`server.fleet.FleetAlgorithm` for the second round of a strategy: one sum, or as many as it takes.

    The second, because devices fetch nothing that they hold: two strategies may start from the same numbers.
    """

    def __init__(self, strategy: Strategy[Any, Any]) -> None:
        self._strategy, self._state = strategy, strategy.start()
        draw = np.random.default_rng(list(strategy.name.encode()))
        for _ in range(strategy.sums_per_round):
            self._state = strategy.absorb(self._state, draw.normal(size=strategy.dimension(self._state)))
        self.values = 0

    def next_task(self, history: Sequence[RoundOutcome]) -> Mapping[str, Any] | None:
        if len(history) >= self._strategy.sums_per_round:
            return None
        return {
            "kind": "shared",
            "dimension": self._strategy.dimension(self._state),
            "clip_norm": _CLIP_NORM,
            "base_sha256": find_model().sha256,
            "artefacts": {"shared": self._strategy.release(self._state)},
        }

    def absorb(
        self, task: RoundTask, mean_update: NDArray[np.float64], survivors: int, metrics: Mapping[str, float]
    ) -> Mapping[str, bytes]:
        self.values += task.update_dimension
        self._state = self._strategy.absorb(self._state, mean_update)
        return {}


class _RandomUpdate:
    """`client.work.LocalWork`: a random vector of the length that the round sums."""

    def compute(self, task: RoundTask, artefacts: Mapping[str, bytes]) -> LocalUpdate:
        vector = np.random.default_rng(task.round).normal(size=task.update_dimension)
        return LocalUpdate(vector / np.linalg.norm(vector), 3.0, 1)


@contextmanager
def _nobody_trains() -> Iterator[None]:
    before = client_app.work_factory
    client_app.work_factory = lambda device: _RandomUpdate()
    try:
        yield
    finally:
        client_app.work_factory = before
        client_app.close_devices()


def measure(
    strategy: Strategy[Any, Any], homes: Sequence[Path], credentials: ServerCredentials, out: Path
) -> WireBytes:
    """One round of a strategy with these devices, each byte counted. `out`: a new folder for the server's store."""
    settings = FleetSettings(
        run_id=strategy.name, rounds=strategy.sums_per_round, noise_multiplier=_NOISE_MULTIPLIER, delta=1e-5
    )
    grid, rounds = LocalGrid(client_app.app, homes), _Rounds(strategy)
    with _nobody_trains():
        result = run_fleet(grid, settings, out, rounds, credentials=credentials)
    if len(result.outcomes) != strategy.sums_per_round or any(o.survivors != len(homes) for o in result.outcomes):
        raise PenchantError(f"the round of {strategy.name} in this benchmark lost somebody")
    up, down = (sum(grid.bytes_per_device(direction).values()) / len(homes) for direction in ("up", "down"))
    return WireBytes(up, down, grid.bytes_by_stage("up")["collect"] / len(homes), rounds.values)


def flower_bytes(maps: AdaptedMaps, people: int) -> WireBytes:
    """FedAvg of A and B through Flower's own messages: one array per matrix, float32, both ways."""
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    draw = np.random.default_rng(0)  # trained factors: Flower sends equal arrays only once, as it would the initial B's
    arrays = [draw.normal(size=shape).astype(np.float32) for shape in [*maps.a_shapes, *maps.b_shapes]]
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Any) -> Message:
        received = message.content.array_records["arrays"].to_numpy_ndarrays()
        return Message(RecordDict({"arrays": ArrayRecord([array + 1.0 for array in received])}), reply_to=message)

    grid = LocalGrid(app, [Path(str(person)) for person in range(people)])
    replies = grid.send_and_receive(
        [
            Message(RecordDict({"arrays": ArrayRecord(arrays)}), dst_node_id=node, message_type="train")
            for node in grid.get_node_ids()
        ]
    )
    received = [reply.content.array_records["arrays"].to_numpy_ndarrays() for reply in replies]
    if len(received) != people or not all(np.allclose(one[0], arrays[0] + 1.0) for one in received):
        raise PenchantError("Flower's FedAvg of this benchmark did not return everybody's factors")
    up, down = (sum(grid.bytes_per_device(direction).values()) / people for direction in ("up", "down"))
    return WireBytes(up, down, up, sum(array.size for array in arrays))
