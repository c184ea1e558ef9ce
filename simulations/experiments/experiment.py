"""One experiment from people to report: homes, frame, rounds through Flower, bases, adapters, scoring, answers.

``penchant demo`` runs it on the bundled village, ``penchant simulate`` on what a TOML file names; the federation
itself is the deployment's own two apps over an in-process ``Grid``. A run that was stopped goes on when the same
command is given again (``simulations.experiments.run_folder``).
"""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cbor2
import numpy as np

from client import app as client_app
from client.examples import public_examples
from client.frame_builder import build_frame, public_text
from client.local_training import evaluate_coordinates
from client.mixing_weights import fit_weights
from client.training import Trainer, TrainingPlan, forget_batches, open_trainer, residual_of
from edge_runtime.adapters.log import AdapterLog
from edge_runtime.device import Device
from edge_runtime.models.catalogue import ModelFile, ModelShape, read_model_shape, write_atomically
from edge_runtime.store.vault import LEARNT_PREFIX
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector
from server.algorithms import PreferenceBases, PreferencePlan
from server.credentials import ServerCredentials
from server.fleet import FleetResult, FleetSettings, run_fleet
from server.round import Progress
from simulations.experiments.arms import (
    HeldOut,
    PersonAdapters,
    adapter_bytes,
    held_out_texts,
    plan_jobs,
    summarise,
)
from simulations.experiments.homes import create_homes, home_folders
from simulations.experiments.local_grid import LocalGrid
from simulations.experiments.report_blocks import (
    finite,
    frame_block,
    privacy_block,
    round_log,
    secure_aggregation_block,
    wire_block,
)
from simulations.experiments.run_folder import (
    CREDENTIALS,
    DEVICES,
    FRAME,
    RunFolder,
    job_key,
    people_digest,
    plan_digest,
)
from simulations.experiments.samples import sample_answers
from simulations.experiments.scoring import Job, JobResult, peak_memory_mb, score_all, split_by_kind
from simulations.experiments.settings import ExperimentSettings
from simulations.people import Person

MINIMUM_FLEET = 8  # what a device demands of a round by default
FIT_BLOB = f"{LEARNT_PREFIX}simulation/fit"
StageSink = Callable[[str, float], None]


@dataclass(frozen=True)
class PersonalFit:
    """What one person's device worked out for itself: three adapters in the frame and the private weights."""

    shared: Vector
    personal: Vector
    bases: Vector
    weights: Vector


class Stopwatch:
    """Seconds per stage, and the stage's progress to whoever shows it."""

    def __init__(self, sink: StageSink) -> None:
        self.seconds: dict[str, float] = {}
        self._sink = sink

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        started = time.monotonic()
        self._sink(name, 0.0)
        yield lambda fraction: self._sink(name, min(fraction, 1.0))
        self._sink(name, 1.0)
        self.seconds[name] = time.monotonic() - started


def run_experiment(
    settings: ExperimentSettings,
    people: Sequence[Person],
    out: Path,
    *,
    command: str,
    on_stage: StageSink = lambda name, fraction: None,
) -> dict[str, Any]:
    """Run everything, or what a stopped run in ``out`` has left, and return the report (see
    ``simulations.reports.report``); devices and releases stay in ``out``.

    Raises PenchantError if ``out`` holds another run or a stage fails.
    """
    fleet = [person for person in people if person.role == "fleet"]
    if len(fleet) < MINIMUM_FLEET:
        raise PenchantError(f"a fleet needs at least {MINIMUM_FLEET} people, got {len(fleet)}")
    people = [*fleet, *(person for person in people if person.role == "newcomer")]
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    watch, started = Stopwatch(on_stage), time.monotonic()

    with watch.stage("opening the model"):
        if settings.model:
            os.environ["PENCHANT_MODEL"] = settings.model
        trainer = open_trainer(settings.training.top_layers)
        shape = read_model_shape(trainer.model.path)
    folder = RunFolder.open(out, plan_digest(settings, people, trainer.model.sha256))
    with watch.stage("people and their memories") as advance:
        homes, credentials = _homes(folder, people, settings, advance)
    with watch.stage("frame from public text") as advance:
        frame = _frame(folder, trainer, settings, advance)
    with watch.stage("federated rounds") as advance:
        algorithm, result = _federate(settings, frame, homes[: len(fleet)], credentials, folder, advance)
    with watch.stage("each person's own mix") as advance:
        fits = []
        for home in homes:
            fits.append(_fit_person(trainer, frame, algorithm, home, settings))
            advance(len(fits) / len(homes))
    model = trainer.model
    with watch.stage("held-out texts and recall") as advance:
        texts = _texts(trainer, people, homes, settings.held_out, advance)
        adapters = _adapters(frame, fits, model, shape, result)
        for home, own in zip(homes, adapters, strict=True):
            with Device.open(home) as device:
                log = AdapterLog(device.vault)
                if log.live() is None:
                    log.install(own.bases, note="the fleet's bases in my own mix")
    jobs = split_by_kind(plan_jobs(*texts, adapters))
    trainer.engine.close()
    del trainer
    open_trainer.cache_clear()
    forget_batches()
    gc.collect()
    with watch.stage("scoring every arm with llama.cpp") as advance:
        results = _scores(folder, model, jobs, advance)
    arms, controls = summarise(results, people)
    with watch.stage("answers for three people") as advance:
        samples = sample_answers(model, people, homes, adapters, settings.sample_people, advance)
    names = [person.name for person in people]
    report: dict[str, Any] = {
        "title": settings.title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "model": {"name": model.name, "sha256": model.sha256, "quantisation": model.quantisation},
        "frame": frame_block(frame, settings),
        "people": len(people),
        "people_sha256": people_digest(people),
        "settings": asdict(settings),
        "fleet": len(fleet),
        "newcomers": len(people) - len(fleet),
        "rounds": len(result.outcomes),
        "round_log": round_log(result, settings.delta),
        "arms": arms,
        "controls": controls,
        "privacy": privacy_block(result, settings, frame),
        "wire": wire_block(folder.traffic, result, len(fleet)),
        "secure_aggregation": secure_aggregation_block(result, settings),
        "bases": {
            "count": algorithm.bank.count,
            "spectrum": list(algorithm.spectrum),
            "noise_floor": algorithm.noise_floor,
            "weights": {name: [float(w) for w in fit.weights] for name, fit in zip(names, fits, strict=True)},
        },
        "samples": samples,
        "seconds": {**watch.seconds, "total": time.monotonic() - started},
        "peak_memory_mb": _peak_memory_mb(results),
        "seed": settings.seed,
        "versions": {name: version(name) for name in ("penchant", "llama-cpp-python", "torch", "transformers", "flwr")},
    }
    return report


def _homes(
    folder: RunFolder, people: Sequence[Person], settings: ExperimentSettings, advance: Callable[[float], None]
) -> tuple[list[Path], ServerCredentials]:
    devices, credentials = folder.out / DEVICES, folder.credentials()
    if credentials is not None:
        return home_folders(devices, len(people)), credentials
    if devices.exists():
        shutil.rmtree(devices)  # this run's own, stopped before all of them stood
    homes, credentials = create_homes(
        people, devices, epsilon_budget=float("inf"), delta=settings.delta, on_progress=advance
    )
    credentials.save(folder.out / CREDENTIALS)
    return homes, credentials


def _frame(
    folder: RunFolder, trainer: Trainer, settings: ExperimentSettings, advance: Callable[[float], None]
) -> Frame:
    kept = folder.out / FRAME
    if not kept.exists():
        frame = build_frame(
            trainer.torch_model,
            trainer.model.sha256,
            [(ex.tokens, ex.prompt_length) for ex in public_examples(trainer.engine, public_text())],
            kinds=settings.frame_kinds,
            rank=settings.frame_rank,
            on_progress=advance,
        )
        write_atomically(kept, frame.to_bytes())
    return Frame.from_bytes(kept.read_bytes())  # exactly what the devices will hold


def _federate(
    settings: ExperimentSettings,
    frame: Frame,
    homes: Sequence[Path],
    credentials: ServerCredentials,
    folder: RunFolder,
    advance: Callable[[float], None],
) -> tuple[PreferenceBases, FleetResult]:
    plan = PreferencePlan(**{**settings.plan.__dict__, "training": settings.training.settings()})
    algorithm = PreferenceBases(frame, plan)
    fleet = FleetSettings(
        run_id=folder.run_id,
        rounds=plan.rounds,
        noise_multiplier=settings.noise_multiplier,
        delta=settings.delta,
        minimum_survivors=settings.minimum_survivors,
        dropout_fraction=settings.dropout_fraction,
        seed=settings.seed,
    )
    grid = LocalGrid(client_app.app, homes)
    before = {direction: dict(stages) for direction, stages in folder.traffic.items()}

    def count_traffic() -> None:
        for direction, earlier in before.items():
            now = grid.bytes_by_stage(direction)
            folder.traffic[direction] = {s: earlier.get(s, 0) + now.get(s, 0) for s in {**earlier, **now}}
        folder.save()

    def note(progress: Progress) -> None:
        if progress.stage == "collect" and progress.asked:
            advance((progress.round + progress.answered / progress.asked) / plan.rounds)
        if progress.answered == progress.asked:
            count_traffic()

    try:
        result = run_fleet(grid, fleet, folder.out, algorithm, note, credentials=credentials)
        count_traffic()
        return algorithm, result
    finally:
        client_app.close_devices()


def _fit_person(
    trainer: Trainer,
    frame: Frame,
    algorithm: PreferenceBases,
    home: Path,
    settings: ExperimentSettings,
) -> PersonalFit:
    """The device's own work after the rounds: residual, private weights; both stay in its encrypted file."""
    with Device.open(home) as device:
        if (kept := device.vault.get_blob(FIT_BLOB)) is not None:
            fit: dict[str, list[float]] = cbor2.loads(kept)
            return PersonalFit(**{name: np.array(values) for name, values in fit.items()})
        batch = trainer.batch_of(device, settings.training)
        residual, loss = residual_of(device, trainer, frame, algorithm.shared, settings.training, batch)
        # Fitted to the texts: the projection of a trained residual can lead uphill, since what it leaves out made up
        # for it (measured: along one noisy direction it cost most villagers 1 % of their own texts' loss).
        weights = fit_weights(trainer.torch_model, frame, batch, algorithm.bank, passes=2)
        mixed = algorithm.bank.mix(weights)
        if evaluate_coordinates(trainer.torch_model, frame, batch, mixed) > loss:
            weights, mixed = np.zeros_like(weights), algorithm.shared
        made = PersonalFit(algorithm.shared, algorithm.shared + residual, mixed, weights)
        with device.vault.transaction():
            device.vault.put_blob(
                f"{LEARNT_PREFIX}weights", Coordinates(frame.digest, np.atleast_2d(weights)).to_bytes()
            )
            device.vault.put_blob(
                FIT_BLOB, cbor2.dumps({name: list(map(float, row)) for name, row in vars(made).items()})
            )
    return made


def _scores(
    folder: RunFolder, model: ModelFile, jobs: Sequence[Job], advance: Callable[[float], None]
) -> list[JobResult]:
    """All results in the order of the jobs; what a stopped run has scored is not scored again."""
    by_key = {job_key(job): job for job in jobs}
    done = {job_key(result): result for result in folder.scores(jobs)}
    left = [job for key, job in by_key.items() if key not in done]
    for result in score_all(model, left, workers=max(1, os.cpu_count() or 1)):
        folder.keep_score(by_key[job_key(result)], result)
        done[job_key(result)] = result
        advance(len(done) / len(jobs))
    return [done[key] for key in by_key]


def _adapters(
    frame: Frame,
    fits: Sequence[PersonalFit],
    model: ModelFile,
    shape: ModelShape,
    result: FleetResult,
) -> list[PersonAdapters]:
    rounds = len(result.outcomes)

    def as_gguf(theta: Vector, epsilon: float | None = None) -> bytes:
        return adapter_bytes(frame, theta, model, shape, round=rounds, epsilon=epsilon)

    # The fleet's promise covers what the fleet released; what a device adds of its own is without noise.
    shared = as_gguf(fits[0].shared, finite(result.epsilon))
    return [PersonAdapters(shared, as_gguf(fit.personal), as_gguf(fit.bases)) for fit in fits]


def _texts(
    trainer: Trainer,
    people: Sequence[Person],
    homes: Sequence[Path],
    limits: HeldOut,
    advance: Callable[[float], None],
) -> tuple[list[Any], list[Any], list[Any]]:
    devices = [Device.open(home) for home in homes]
    try:
        plain, own, stranger = [], [], []
        for number, (person, device) in enumerate(zip(people, devices, strict=True)):
            plain.append(held_out_texts(trainer.engine, person, limits, None))
            own.append(held_out_texts(trainer.engine, person, limits, device))
            stranger.append(held_out_texts(trainer.engine, person, limits, devices[(number + 1) % len(devices)]))
            advance((number + 1) / len(people))
        return plain, own, stranger
    finally:
        for device in devices:
            device.close()


def _peak_memory_mb(results: Sequence[JobResult]) -> float:
    """This process and the scoring workers together (pages that they share are counted in each)."""
    workers = {result.worker: result.peak_mb for result in results}
    return peak_memory_mb() + sum(workers.values())


def settings_with(settings: ExperimentSettings, changes: Mapping[str, Any]) -> ExperimentSettings:
    """The settings with some fields changed; nested tables (training, plan, held_out) by their own fields."""
    nested = {"training": TrainingPlan, "plan": PreferencePlan, "held_out": HeldOut}
    values: dict[str, Any] = dict(settings.__dict__)
    for name, value in changes.items():
        if name not in values:
            raise PenchantError(f"there is no experiment setting {name!r}")
        if name in nested:
            unknown = set(value) - set(nested[name].__dataclass_fields__)  # type: ignore[attr-defined]
            if unknown:
                raise PenchantError(f"[{name}] has no setting {sorted(unknown)[0]!r}")
            value = nested[name](**{**getattr(settings, name).__dict__, **value})
        elif name == "frame_kinds":
            value = tuple(value)
        values[name] = value
    return ExperimentSettings(**values)
