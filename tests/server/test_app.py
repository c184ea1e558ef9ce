from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, RecordDict

import client.app
import server.app
from client.training import TrainingPlan
from protocol.errors import PenchantError
from protocol.feature_map import fit_feature_map
from protocol.frames import Frame
from server.algorithms import PreferenceBases, PreferencePlan
from server.fleet import FleetSettings
from server.reward_bases import RewardBases
from server.store import Store
from tests.fleet_help import MeanAlgorithm, credentials_of, grid_of, make_fleet, recorded_contributions

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG: dict[str, bool | float | int | str] = {"run-id": "r", "rounds": 2, "noise-multiplier": 1, "delta": 1e-5}


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
    credentials_of(grid.homes).save(tmp_path / "credentials")
    monkeypatch.setattr(server.app, "algorithm_factory", lambda config, out: MeanAlgorithm())
    config = {**CONFIG, "out": str(tmp_path / "out"), "credentials": str(tmp_path / "credentials")}
    context = Context(1, 1, {}, RecordDict(), config)
    with recorded_contributions():
        server.app.app(grid, context)
    store = Store(tmp_path / "out" / "fleet.db")
    assert [row.stage for row in store.rounds("r")] == ["done", "done"]
    store.close()


class Recording(dict[str, bool | float | int | str]):
    """A run configuration that notes which keys were read."""

    def __init__(self, *values: object) -> None:
        super().__init__(*values)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> bool | float | int | str:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
        self.read.add(key)
        return super().get(key, default)

    def items(self) -> Iterator[tuple[str, object]]:  # type: ignore[override]
        for key in self:
            if key.startswith("train."):
                yield key, self[key]


def project_config() -> dict[str, bool | float | int | str]:
    """The table of pyproject.toml, flattened as Flower does it."""
    table = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]["flwr"]["app"]["config"]
    nested = table.pop("train")
    return {**table, **{f"train.{key}": value for key, value in nested.items()}}


def test_every_key_of_the_project_file_is_read_and_every_key_read_is_in_it(tmp_path: Path) -> None:
    config = Recording(project_config() | {"frame": str(frame_file(tmp_path)), "devices": str(tmp_path)})
    server.app.settings_from(config)
    server.app.default_algorithm(config, tmp_path)
    config |= {"frame": "", "feature-map": str(feature_map_file(tmp_path))}
    server.app.default_algorithm(config, tmp_path)
    assert client.app.home_of(Context(1, 1, {"partition-id": 3}, RecordDict(), config)) == tmp_path / "0003"
    with pytest.raises(PenchantError, match="'out' is missing"):
        server.app.app(grid_of([]), Context(1, 1, {}, RecordDict(), config))
    config["out"] = str(tmp_path / "out")
    with pytest.raises(PenchantError, match="'credentials' is missing"):
        server.app.app(grid_of([]), Context(1, 1, {}, RecordDict(), config))
    assert config.read == set(config)
    training = {key.removeprefix("train.").replace("-", "_") for key in config if key.startswith("train.")}
    assert training == set(TrainingPlan.__dataclass_fields__)


def test_what_the_project_file_leaves_empty_is_the_codes_default(tmp_path: Path) -> None:
    config = project_config() | {"frame": str(frame_file(tmp_path))}
    settings = server.app.settings_from(config)
    assert settings == FleetSettings("fleet", rounds=5, noise_multiplier=1.0, delta=1e-5)
    algorithm = server.app.default_algorithm(config, tmp_path)
    assert isinstance(algorithm, PreferenceBases)
    assert algorithm.plan == PreferencePlan()
    assert PreferencePlan().rounds == settings.rounds  # the run is not cut short
    with pytest.raises(PenchantError, match="'delta' is missing"):
        server.app.settings_from(config | {"delta": ""})


def frame_file(folder: Path) -> Path:
    """A file with a frame of 4 coordinates."""
    left, right = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 2)))[0], np.eye(2, 5)
    frame = Frame("0" * 64, 2, 1.0, ("blk.0.attn_v",), (left.astype("f4"),), (right.astype("f4"),))
    (folder / "frame").write_bytes(frame.to_bytes())
    return folder / "frame"


def test_the_default_algorithm_reads_the_frame_and_the_plan_from_the_configuration(tmp_path: Path) -> None:
    frame = Frame.from_bytes(frame_file(tmp_path).read_bytes())
    config: dict[str, bool | float | int | str] = {
        **CONFIG, "frame": str(tmp_path / "frame"), "shared-rounds": 1, "bases-rounds": 2, "basis-count": 2,
        "train.learning-rate": 0.5,
    }  # fmt: skip
    algorithm = server.app.default_algorithm(config, tmp_path)
    task = algorithm.next_task([])
    assert task is not None and task["kind"] == "shared" and task["dimension"] == 4
    assert task["settings"] == {"learning_rate": 0.5} and task["artefacts"]["frame"] == frame.to_bytes()
    with pytest.raises(PenchantError, match="'frame' is missing"):
        server.app.default_algorithm(CONFIG, tmp_path)


def feature_map_file(folder: Path) -> Path:
    """A file with a feature map over style alone."""
    raw = np.random.default_rng(0).normal(size=(50, 23))
    features = fit_feature_map(raw, sources={"style": 23}, k=23, base_sha256="", embedder_sha256="")
    (folder / "map").write_bytes(features.to_bytes())
    return folder / "map"


def test_a_feature_map_in_the_configuration_makes_it_a_fleet_of_tastes(tmp_path: Path) -> None:
    config: dict[str, bool | float | int | str] = {
        **CONFIG,
        "feature-map": str(feature_map_file(tmp_path)),
        "shared-rounds": 2,
        "maximum-count": 3,
        "base-sha256": "b" * 64,
    }
    algorithm = server.app.default_algorithm(config, tmp_path)
    assert isinstance(algorithm, RewardBases) and algorithm.plan.maximum_count == 3
    task = algorithm.next_task([])
    assert task is not None and task["space"] == "reward" and task["base_sha256"] == "b" * 64
    frame_file(tmp_path)
    with pytest.raises(PenchantError, match="'frame' is missing"):  # one or the other
        server.app.default_algorithm({**config, "frame": str(tmp_path / "frame")}, tmp_path)
