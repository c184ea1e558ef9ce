"""The fleet behind a study's shared adapter: both apps, the secure sum, a stated epsilon; kept for the next time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import simulations.experiments.shared_fleet as module
from client.training import forget_batches, open_trainer
from edge_runtime import device as device_module
from simulations.experiments.shared_fleet import SharedAdapter, SharedSettings, describe, shared_adapter
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.simulations.studies.history_help import person_of
from tests.tiny_model import write_tiny_model

SETTINGS = SharedSettings(epsilon=8.0, rounds=2, messages=3, top_layers=2)
PEOPLE = [person_of(name, texts=4) for name in ("ann", "ben", "cleo", "dora", "emil", "fay", "gil", "hans")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SharedAdapter, Path, list[float]]]:
    folder = tmp_path_factory.mktemp("fleet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_MODEL", str(write_tiny_model(folder / "tiny.gguf", 7)))
        patch.setattr(device_module, "_default_embedder", HashingEmbedder)
        patch.setattr(module, "public_text", lambda: [("Say it.", "here it is"), ("What is it?", "a thing")])
        open_trainer.cache_clear()
        heard: list[float] = []
        file = folder / "shared.cbor"
        yield shared_adapter(PEOPLE, SETTINGS, file, heard.append), file, heard
        open_trainer.cache_clear()
        forget_batches()


def test_a_fleet_trains_within_its_epsilon(made: tuple[SharedAdapter, Path, list[float]]) -> None:
    adapter, _, heard = made
    assert adapter.people == 8 and adapter.theta.shape == (adapter.frame.dimension,) and adapter.theta.any()
    assert 7.9 < adapter.epsilon <= 8.01
    assert heard and heard == sorted(heard) and heard[-1] <= 1.0
    assert adapter.frame.rank == SETTINGS.rank and len(adapter.frame.modules) == 4
    said = describe(SETTINGS, adapter)
    assert (said["people"], said["numbers"], said["epsilon"]) == (8, 16, 8.0)


def test_it_is_read_back_and_not_made_again(made: tuple[SharedAdapter, Path, list[float]]) -> None:
    adapter, file, _ = made
    again = shared_adapter([], SETTINGS, file)
    assert np.array_equal(again.theta, adapter.theta) and again.frame.digest == adapter.frame.digest
    assert (again.epsilon, again.people) == (adapter.epsilon, 8)
