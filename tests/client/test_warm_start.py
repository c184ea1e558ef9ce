"""Training on from where an adapter stands: its own subspace, its privacy, the device's account of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import warm_start
from client.local_training import LocalSettings
from client.portability import losses_of
from client.privacy_units import units_of
from client.training_ledger import TrainingLedger
from client.warm_start import own_subspace, rebased, warm_retrained
from edge_runtime.adapters.adapter_file import AdapterFile, AdapterMetadata, read_adapter
from edge_runtime.device import Device
from edge_runtime.models.catalogue import ModelFile
from tests.client import test_portability
from tests.client.test_portability import CREATED, adapter_for, examples
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import random_factors

models = test_portability.models  # the fixture


def test_the_own_subspace_holds_the_very_same_change() -> None:
    factors = random_factors(0, layers=range(2, 3), rank=4) | random_factors(1, layers=range(3, 4), rank=2)
    adapter = AdapterFile(factors, 6.0, "llama", AdapterMetadata("a" * 64, ""))
    frame, theta = own_subspace(adapter)
    assert frame.rank == 4 and theta.shape == (frame.dimension,) == (14 * 16,)
    for module, (left, right) in frame.lora_factors(theta).items():
        own_left, own_right = factors[module]
        wanted = 6.0 / own_left.shape[0] * own_right @ own_left
        assert np.abs(right @ left - wanted).max() < 1e-5 * np.abs(wanted).max()
    for u, v in zip(frame.left, frame.right, strict=True):
        assert np.allclose((u.T @ u)[:2, :2], np.eye(2), atol=1e-5)
        assert np.allclose((v @ v.T)[:2, :2], np.eye(2), atol=1e-5)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[TrainingLedger]:
    with Device.open(tmp_path / "account", create=True, key_method="file", embedder=HashingEmbedder()) as device:
        yield TrainingLedger(device.vault)


def test_a_warm_start_learns_the_texts_within_the_subspace(
    models: tuple[ModelFile, ModelFile], ledger: TrainingLedger
) -> None:
    new, texts = models[1], examples()
    start = rebased(adapter_for(models[0]), new, created=CREATED)
    trained = warm_retrained(start, new, texts, ledger=ledger, settings=LocalSettings(epochs=3, learning_rate=0.05))
    before_warm, after = (np.concatenate(losses_of(texts)(new, data)).mean() for data in (start, trained))
    assert after < before_warm - 0.05
    metadata, before = read_adapter(trained).metadata, read_adapter(start)
    assert metadata == replace(before.metadata, frame_sha256="", epsilon=None)
    frame, _ = own_subspace(before)
    for (left, right), u, v in zip(read_adapter(trained).factors.values(), frame.left, frame.right, strict=True):
        change = right @ left
        assert np.allclose(u @ (u.T @ change @ v.T) @ v, change, atol=1e-5)
    assert [(entry.noise_multiplier, entry.steps) for entry in ledger.entries()] == [(0.0, 3)]


def test_units_are_protected_as_one(
    models: tuple[ModelFile, ModelFile], ledger: TrainingLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, texts = rebased(adapter_for(models[0], epsilon=4.0), models[1], created=CREATED), examples()
    units, seen = units_of([0] * len(texts)), list[object]()
    original = warm_start.train_privately

    def noted(*arguments: Any, **options: Any) -> Any:
        seen.append(options["units"])
        return original(*arguments, **options)

    monkeypatch.setattr(warm_start, "train_privately", noted)
    warm_retrained(start, models[1], texts, ledger=ledger, units=units)
    assert seen == [units]


def test_a_private_adapter_stays_private_and_pays(models: tuple[ModelFile, ModelFile], ledger: TrainingLedger) -> None:
    start = rebased(adapter_for(models[0], epsilon=4.0), models[1], created=CREATED)
    trained = read_adapter(warm_retrained(start, models[1], examples(), ledger=ledger))
    assert trained.metadata.epsilon is not None and 7.0 < trained.metadata.epsilon <= 8.0
    (entry,) = ledger.entries()
    assert entry.noise_multiplier > 0 and entry.steps == entry.planned == 2
