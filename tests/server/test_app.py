from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, RecordDict

import server.app
from protocol.errors import PenchantError
from protocol.frames import Frame
from server.store import Store
from tests.fleet_help import MeanAlgorithm, grid_of, make_fleet, recorded_contributions

CONFIG = {"run-id": "r", "rounds": 2, "noise-multiplier": 1, "delta": 1e-5}


def test_settings_come_from_the_run_configuration() -> None:
    settings = server.app.settings_from({**CONFIG, "stage-seconds": 5, "minimum-survivors": 4, "other": "x"})
    assert (settings.noise_multiplier, settings.stage_seconds, settings.minimum_survivors) == (1.0, 5.0, 4)
    assert math.isinf(settings.epsilon_budget)
    with pytest.raises(PenchantError, match="'delta' is missing"):
        server.app.settings_from({key: value for key, value in CONFIG.items() if key != "delta"})
    with pytest.raises(PenchantError, match="rounds = 'many'"):
        server.app.settings_from({**CONFIG, "rounds": "many"})


def test_the_app_runs_a_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = grid_of(make_fleet(tmp_path / "devices", 4))
    monkeypatch.setattr(server.app, "algorithm_factory", lambda config, out: MeanAlgorithm())
    config = {**CONFIG, "out": str(tmp_path / "out")}
    context = Context(1, 1, {}, RecordDict(), config)
    with recorded_contributions():
        server.app.app(grid, context)
    store = Store(tmp_path / "out" / "fleet.db")
    assert [row.stage for row in store.rounds("r")] == ["done", "done"]
    store.close()


def test_the_default_algorithm_reads_the_frame_and_the_plan_from_the_configuration(tmp_path: Path) -> None:
    left, right = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 2)))[0], np.eye(2, 5)
    frame = Frame("0" * 64, 2, 1.0, ("blk.0.attn_v",), (left.astype("f4"),), (right.astype("f4"),))
    (tmp_path / "frame").write_bytes(frame.to_bytes())
    config = {
        **CONFIG, "frame": str(tmp_path / "frame"), "shared-rounds": 1, "bases-rounds": 1, "basis-count": 2,
        "train.learning-rate": 0.5,
    }  # fmt: skip
    algorithm = server.app.default_algorithm(config, tmp_path)
    task = algorithm.next_task([])
    assert task is not None and task["kind"] == "shared" and task["dimension"] == 4
    assert task["settings"] == {"learning_rate": 0.5} and task["artefacts"]["frame"] == frame.to_bytes()
    with pytest.raises(PenchantError, match="'frame' is missing"):
        server.app.default_algorithm(CONFIG, tmp_path)
