"""A fleet's shared adapter for a study: both federated apps and the secure sum, in one process, under a stated epsilon.

The frame is that of the default experiment: small, because noise grows with its numbers. The result is kept in a file
and read from there the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cbor2
import numpy as np

from client import app as client_app
from client.examples import public_examples
from client.frame_builder import build_frame, public_text
from client.training import TrainingPlan, forget_batches, open_trainer
from edge_runtime.models.catalogue import write_atomically
from protocol.accounting import noise_multiplier_for
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector
from server.algorithms import PreferenceBases, PreferencePlan
from server.fleet import FleetSettings, run_fleet
from server.round import Progress
from simulations.experiments.homes import create_homes
from simulations.experiments.local_grid import LocalGrid
from simulations.people import Person


@dataclass(frozen=True)
class SharedSettings:
    """``epsilon`` at ``delta`` protects one person of the fleet over all ``rounds``; each trains on their newest
    ``messages`` texts."""

    epsilon: float = 8.0
    delta: float = 1e-3
    rounds: int = 2
    messages: int = 8
    kinds: tuple[str, ...] = ("attn_output", "ffn_down")
    rank: int = 2
    top_layers: int = 4
    seed: int = 0


@dataclass(frozen=True)
class SharedAdapter:
    """The released adapter ``theta`` (d,) in its ``frame``; ``epsilon`` as spent by ``people``."""

    frame: Frame
    theta: Vector
    epsilon: float
    people: int

    def to_bytes(self) -> bytes:
        """CBOR."""
        theta = self.theta.astype("<f8").tobytes()
        return cbor2.dumps({"frame": self.frame.to_bytes(), "theta": theta, "spent": [self.epsilon, self.people]})

    @staticmethod
    def from_bytes(data: bytes) -> SharedAdapter:
        """The inverse of ``to_bytes``."""
        body = cbor2.loads(data)
        epsilon, people = body["spent"]
        return SharedAdapter(Frame.from_bytes(body["frame"]), np.frombuffer(body["theta"], "<f8"), epsilon, people)


def shared_adapter(
    people: Sequence[Person],
    settings: SharedSettings,
    file: Path,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> SharedAdapter:
    """The adapter that ``file`` holds, else that of a new fleet of these people, which is then kept there."""
    if file.is_file():
        return SharedAdapter.from_bytes(file.read_bytes())
    trainer = open_trainer(settings.top_layers)
    frame = build_frame(
        trainer.torch_model,
        trainer.model.sha256,
        [(one.tokens, one.prompt_length) for one in public_examples(trainer.engine, public_text())],
        kinds=settings.kinds,
        rank=settings.rank,
    )
    training = TrainingPlan(top_layers=settings.top_layers, messages=settings.messages, choices=0)
    plan = PreferencePlan(shared_rounds=settings.rounds, bases_rounds=0, training=training.settings())
    algorithm = PreferenceBases(frame, plan)
    fleet = FleetSettings(
        run_id="shared",
        rounds=settings.rounds,
        noise_multiplier=noise_multiplier_for(settings.epsilon, settings.delta, settings.rounds),
        delta=settings.delta,
        seed=settings.seed,
    )

    def note(progress: Progress) -> None:
        if progress.stage == "collect" and progress.asked:
            on_progress((progress.round + progress.answered / progress.asked) / settings.rounds)

    with TemporaryDirectory(prefix="penchant-fleet-") as folder:
        newest = [replace(one, train_messages=one.train_messages[-settings.messages :]) for one in people]
        homes, credentials = create_homes(
            newest, Path(folder) / "devices", epsilon_budget=2 * settings.epsilon, delta=settings.delta
        )
        try:
            result = run_fleet(
                LocalGrid(client_app.app, homes), fleet, Path(folder), algorithm, note, credentials=credentials
            )
        finally:
            client_app.close_devices()
            trainer.engine.close()
            open_trainer.cache_clear()
            forget_batches()
    if len(result.outcomes) < settings.rounds:
        raise PenchantError(f"the fleet ended after {len(result.outcomes)} of {settings.rounds} rounds")
    made = SharedAdapter(frame, algorithm.shared, result.epsilon, len(people))
    write_atomically(file, made.to_bytes())
    return made


def describe(settings: SharedSettings, made: SharedAdapter) -> dict[str, object]:
    """What a report says about it."""
    return {**asdict(settings), "spent": made.epsilon, "people": made.people, "numbers": made.frame.dimension}
