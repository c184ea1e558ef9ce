"""A small fleet learns bases on the tiny model: nobody's weights or residual are among the bytes that travelled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import client.app
from client.examples import public_examples
from client.frame_builder import build_frame, public_text
from client.training import Trainer, TrainingPlan, forget_batches, open_trainer, residual_of
from edge_runtime.device import Device
from protocol.coordinates import Coordinates
from protocol.frames import Frame, Vector
from protocol.subspace_sketch import sketch_weights
from server.algorithms import PreferenceBases, PreferencePlan
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.fleet_help import grid_of, make_fleet, run_fleet, settings_of
from tests.tiny_model import write_tiny_model

LIKES = ("tea", "soup", "glaze", "bread", "dogs")
PLAN = TrainingPlan(top_layers=2, messages=2, choices=0, max_tokens=160, batch_size=2, residual_epochs=1)


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    monkeypatch.setenv("PENCHANT_MODEL", str(write_tiny_model(tmp_path / "tiny.gguf", 7)))
    open_trainer.cache_clear()
    forget_batches()
    opened = open_trainer(PLAN.top_layers)
    yield opened
    client.app.close_devices()
    opened.engine.close()
    open_trainer.cache_clear()
    forget_batches()


def encodings(vector: Vector) -> list[bytes]:
    """A vector as somebody might send it: single and double precision, both byte orders; any four numbers of it."""
    return [
        vector[start : start + 4].astype(form).tobytes()
        for form in ("<f4", "<f8", ">f4", ">f8")
        for start in range(0, max(len(vector) - 3, 1))
    ]


def test_no_message_carries_a_weight_vector_or_a_residual(trainer: Trainer, tmp_path: Path) -> None:
    texts = [(example.tokens, example.prompt_length) for example in public_examples(trainer.engine, public_text()[:2])]
    frame = build_frame(trainer.torch_model, trainer.model.sha256, texts, kinds=("ffn_down",), rank=3)
    homes = make_fleet(tmp_path / "devices", len(LIKES))
    for number, home in enumerate(homes):
        with Device.open(home, embedder=HashingEmbedder()) as device:
            device.memory.remember(f"person {number} likes {LIKES[number]}", said_at="2025-01-01")
    plan = PreferencePlan(
        shared_rounds=1, bases_rounds=2, basis_count=2, oversampling=2, bases_clip=5.0, training=PLAN.settings()
    )
    algorithm = PreferenceBases(frame, plan)
    grid = grid_of(homes, record_payloads=True)
    run_fleet(grid, settings_of(rounds=plan.rounds), tmp_path / "out", algorithm)
    client.app.close_devices()
    travelled = b"".join(transfer.payload or b"" for transfer in grid.transfers)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    found = 0
    for home in homes:
        with Device.open(home, embedder=HashingEmbedder()) as device:
            batch = trainer.batch_of(device, PLAN)
            delta, _ = residual_of(device, trainer, frame, algorithm.shared, PLAN, batch)
        assert np.linalg.norm(delta) > 0.0
        secrets = [delta]
        for rows in public_rows(frame, algorithm):
            secrets += [rows @ delta, *(sketch_weights(rows, delta, 5.0, noisy=noisy) for noisy in (True, False))]
        for secret in secrets:
            found += sum(needle in travelled or needle in stored for needle in encodings(secret))
    assert found == 0
    # The search can find: the rows of the last sum, which are public, are there.
    public = Coordinates(frame.digest, algorithm.bank.shared[None]).rows[0]
    assert any(needle in travelled and needle in stored for needle in encodings(public))


def public_rows(frame: Frame, algorithm: PreferenceBases) -> list[np.ndarray]:
    """The rows of the first sum and of the one that would come next."""
    return [PreferenceBases(frame, algorithm.plan).rows, algorithm.rows]
