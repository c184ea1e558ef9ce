"""What a device computes for a round, on the tiny model: its own training, private weights, its own model file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import client.training
from client.examples import public_examples
from client.frame_builder import build_frame, public_text
from client.local_training import LocalSettings, evaluate_coordinates, train_coordinates
from client.training import DeviceWork, Trainer, TrainingPlan, forget_batches, open_trainer, residual_of
from client.work import LocalUpdate
from edge_runtime.device import Device
from edge_runtime.forgetting import forget
from edge_runtime.store.vault import LEARNT_PREFIX
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.frames import Frame, Vector
from protocol.messages import RoundTask
from protocol.round_plan import plan_task
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.tiny_model import write_tiny_model

# The tiny vocabulary is bytes: its texts are longer than a real model's.
PLAN = TrainingPlan(
    top_layers=2, messages=5, choices=1, max_tokens=220, epochs=1, batch_size=2, learning_rate=0.05, residual_epochs=2
)
BASIS_COUNT = 3
FLOAT32 = 1e-5  # a stored residual has been through float32
MESSAGES = (
    ("Tell Ines about the kiln", "kiln's cracked again, love. shelf two. don't ask"),
    ("Write to the landlord", "Dear Mr Petersen, the boiler is cold once more."),
    ("Invite Teo", "Teo! soup at seven, bring the small dog"),
    ("Note to self", "buy glaze, buy bread, ring mum"),
)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """The process's own trainer, opened on the tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_MODEL", str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf", 7)))
        open_trainer.cache_clear()
        forget_batches()
        opened = open_trainer(PLAN.top_layers)
        yield opened
        opened.engine.close()
        open_trainer.cache_clear()
        forget_batches()


@pytest.fixture(scope="module")
def frame(trainer: Trainer) -> Frame:
    texts = [(example.tokens, example.prompt_length) for example in public_examples(trainer.engine, public_text()[:4])]
    return build_frame(trainer.torch_model, trainer.model.sha256, texts, kinds=("attn_v", "ffn_down"), rank=3)


def open_device(home: Path) -> Device:
    return Device.open(home, create=True, key_method="file", embedder=HashingEmbedder())


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with open_device(tmp_path / "home") as opened:
        fill(opened)
        yield opened


def fill(device: Device) -> None:
    for number, (cue, text) in enumerate(MESSAGES):
        device.memory.remember(text, cue=cue, said_at=f"2025-01-{number + 1:02d}")
    device.feedback.add_preference("Tea?", "green, strong", "none", said_at="2025-01-09")


def vector(frame: Frame, seed: int, size: float = 0.05) -> Vector:
    """Coordinates as a device reads them: through float32."""
    drawn = size * np.random.default_rng(seed).normal(size=frame.dimension)
    return drawn.astype(np.float32).astype(np.float64)


def task_for(frame: Frame, kind: Any, **changes: Any) -> RoundTask:
    values: dict[str, Any] = {
        "run_id": "run-a",
        "round": 0,
        "kind": kind,
        "artefacts": {},
        "base_sha256": frame.base_sha256,
        "dimension": frame.dimension,
        "basis_count": BASIS_COUNT,
        "clip_norm": 100.0,
        "noise_multiplier": 1.0,
        "cohort_size": 9,
        "minimum_survivors": 6,
        "delta": 1e-5,
        "settings": PLAN.settings(),
    }
    return plan_task(**{**values, **changes})


def artefacts_of(frame: Frame, shared: Vector, bases: np.ndarray | None = None) -> dict[str, bytes]:
    held = {"frame": frame.to_bytes(), "shared": Coordinates(frame.digest, shared[None]).to_bytes()}
    return held if bases is None else {**held, "bases": Coordinates(frame.digest, bases).to_bytes()}


def some_bases(frame: Frame) -> np.ndarray:
    """Orthonormal rows (K, d), as a device reads them."""
    columns, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(frame.dimension, BASIS_COUNT)))
    return columns.T.astype(np.float32).astype(np.float64)


def compute(device: Device, frame: Frame, kind: str, shared: Vector, bases: Any = None, **changes: Any) -> LocalUpdate:
    return DeviceWork(device).compute(task_for(frame, kind, **changes), artefacts_of(frame, shared, bases))


def residual(device: Device, trainer: Trainer, frame: Frame, shared: Vector) -> Vector:
    return residual_of(device, trainer, frame, shared, PLAN, trainer.batch_of(device, PLAN))[0]


def weights_in(update: LocalUpdate, delta: Vector) -> Vector:
    """w (K,) of an update w (x) delta; fails if it is none."""
    rows = update.update.reshape(BASIS_COUNT, len(delta))
    weights: Vector = rows @ delta / (delta @ delta)
    np.testing.assert_allclose(rows, np.outer(weights, delta), atol=FLOAT32)
    return weights


# ---- the plan


def test_a_plan_travels_as_a_tasks_settings_and_comes_back(frame: Frame) -> None:
    plan = TrainingPlan(
        top_layers=3, messages=5, choices=1, max_tokens=77, epochs=4, batch_size=2, learning_rate=0.3, residual_epochs=6
    )
    task = RoundTask.from_bytes(task_for(frame, "shared", settings=plan.settings()).to_bytes())
    assert TrainingPlan.of(task.settings) == plan
    assert isinstance(TrainingPlan.of({"learning_rate": 1}).learning_rate, float)
    assert isinstance(TrainingPlan.of({"messages": 3.0}).messages, int)
    assert TrainingPlan.of({}) == TrainingPlan()


def test_a_setting_that_this_device_does_not_know_is_refused() -> None:
    with pytest.raises(PenchantError, match="training setting momentum"):
        TrainingPlan.of({**PLAN.settings(), "momentum": 0.9})


# ---- shared rounds


def test_a_shared_round_returns_the_trained_adapter_minus_the_shared_one(
    trainer: Trainer, frame: Frame, device: Device
) -> None:
    shared = vector(frame, 0)
    update = compute(device, frame, "shared", shared, round=4)
    batch = trainer.batch_of(device, PLAN)
    settings = LocalSettings(PLAN.epochs, PLAN.batch_size, PLAN.learning_rate, seed=4)
    expected = train_coordinates(trainer.torch_model, frame, batch, shared, settings)
    np.testing.assert_array_equal(update.update, expected.theta - shared)
    assert update.loss_sum == expected.loss and update.example_count == 1
    before, after = (
        evaluate_coordinates(trainer.torch_model, frame, batch, theta) for theta in (shared, shared + update.update)
    )
    assert after < before - 0.05  # the difference points downhill


def test_a_shared_round_is_deterministic_and_another_round_orders_anew(frame: Frame, device: Device) -> None:
    shared = vector(frame, 0)
    first, again, other = (compute(device, frame, "shared", shared, round=number).update for number in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_is_offered_depends_on_the_devices_own_texts(frame: Frame, device: Device) -> None:
    shared = vector(frame, 0)
    before = compute(device, frame, "shared", shared).update
    device.memory.remember("one more thing, love: the cat ate the glaze", cue="Tell Ines", said_at="2025-02-01")
    assert not np.array_equal(compute(device, frame, "shared", shared).update, before)


def test_a_device_without_texts_says_so(trainer: Trainer, frame: Frame, tmp_path: Path) -> None:
    with open_device(tmp_path / "empty") as empty, pytest.raises(PenchantError, match="remember something first"):
        compute(empty, frame, "shared", vector(frame, 0))


# ---- bases rounds


@pytest.mark.parametrize("noise_multiplier", [0.0, 1.0])
def test_a_bases_round_offers_the_residual_times_its_weights_on_the_rounds_rows(
    trainer: Trainer, frame: Frame, device: Device, noise_multiplier: float
) -> None:
    shared, rows, clip = vector(frame, 0), some_bases(frame), 100.0
    update = compute(device, frame, "bases", shared, rows, noise_multiplier=noise_multiplier, clip_norm=clip)
    batch = trainer.batch_of(device, PLAN)
    settings = LocalSettings(PLAN.residual_epochs, PLAN.batch_size, PLAN.learning_rate, seed=0)
    trained = train_coordinates(trainer.torch_model, frame, batch, shared, settings).theta
    delta = residual(device, trainer, frame, shared)
    np.testing.assert_allclose(delta, trained - shared, atol=FLOAT32)
    projected = rows @ delta
    expected = projected / (np.linalg.norm(projected) if noise_multiplier else clip)
    np.testing.assert_allclose(weights_in(update, delta), expected, atol=FLOAT32)
    assert update.loss_sum == pytest.approx(
        evaluate_coordinates(trainer.torch_model, frame, batch, shared), rel=1e-6
    )  # of the shared adapter, not of the residual's training
    assert update.example_count == 1


def test_what_is_offered_is_the_same_after_a_restart(trainer: Trainer, frame: Frame, tmp_path: Path) -> None:
    shared, rows = vector(frame, 0), some_bases(frame)
    with open_device(tmp_path / "home") as first:
        fill(first)
        before = compute(first, frame, "bases", shared, rows).update
    forget_batches()
    with open_device(tmp_path / "home") as restarted:
        after = compute(restarted, frame, "bases", shared, rows, attempt=1).update
        np.testing.assert_array_equal(after, before)


def test_the_residual_is_clipped_before_it_is_offered(trainer: Trainer, frame: Frame, device: Device) -> None:
    shared, rows = vector(frame, 0), some_bases(frame)
    bound = 0.25 * float(np.linalg.norm(residual(device, trainer, frame, shared)))
    loud, exact = (
        compute(device, frame, "bases", shared, rows, clip_norm=bound, noise_multiplier=z).update for z in (1.0, 0.0)
    )
    assert np.linalg.norm(loud) == pytest.approx(bound)
    assert 0.0 < np.linalg.norm(exact) < bound


def test_the_residual_is_trained_once_per_shared_adapter_and_kept_where_a_forget_finds_it(
    frame: Frame, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings: list[int] = []

    def counting(*arguments: Any) -> Any:
        trainings.append(1)
        return train_coordinates(*arguments)

    monkeypatch.setattr(client.training, "train_coordinates", counting)

    def kept() -> list[str]:
        return device.vault.blob_names(f"{LEARNT_PREFIX}residual/")

    rows = some_bases(frame)
    first = compute(device, frame, "bases", vector(frame, 0), rows).update
    assert len(trainings) == 1 and len(kept()) == 1
    np.testing.assert_array_equal(compute(device, frame, "bases", vector(frame, 0), rows).update, first)
    assert len(trainings) == 1
    compute(device, frame, "bases", vector(frame, 1), rows)
    assert len(trainings) == 2 and len(kept()) == 2
    forget(device, [device.memory.items()[0].id])
    assert kept() == []
    compute(device, frame, "bases", vector(frame, 0), rows)
    assert len(trainings) == 3


# ---- what does not belong together


def test_another_model_or_frame_is_refused(trainer: Trainer, frame: Frame, device: Device) -> None:
    shared, other = vector(frame, 0), sha256(b"another model").hexdigest()
    with pytest.raises(PenchantError, match="frame was made for another model"):
        compute(device, frame, "shared", shared, base_sha256=other)
    with pytest.raises(PenchantError, match="frame was made for another model"):
        compute(device, frame, "shared", shared, dimension=frame.dimension - 1)
    foreign = replace(frame, base_sha256=other)
    with pytest.raises(PenchantError, match="another model file than the one on this device"):
        compute(device, foreign, "shared", vector(foreign, 0))
    rescaled = replace(frame, scale=2.0)
    mixed = {**artefacts_of(frame, shared), "frame": rescaled.to_bytes()}
    with pytest.raises(PenchantError, match="made for another frame"):
        DeviceWork(device).compute(task_for(frame, "shared"), mixed)
    bases = Coordinates(rescaled.digest, some_bases(frame)).to_bytes()
    with pytest.raises(PenchantError, match="made for another frame"):
        DeviceWork(device).compute(task_for(frame, "bases"), {**artefacts_of(frame, shared), "bases": bases})
    with pytest.raises(PenchantError, match="momentum"):
        compute(device, frame, "shared", shared, settings={**PLAN.settings(), "momentum": 0.9})


def test_prepared_texts_are_kept_by_what_they_say(trainer: Trainer, device: Device) -> None:
    first = trainer.batch_of(device, PLAN)
    assert trainer.batch_of(device, PLAN) is first
    shorter = trainer.batch_of(device, replace(PLAN, messages=2))
    assert shorter is not first and len(shorter.targets) == 3
    device.memory.remember("new words", said_at="2025-02-01")
    assert len(trainer.batch_of(device, PLAN).targets) == len(first.targets) + 1
    forget_batches()
    assert trainer.batch_of(device, replace(PLAN, messages=2)) is not shorter
