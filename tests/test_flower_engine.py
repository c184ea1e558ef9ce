"""The same two apps under Flower's own simulation engine: `flwr run` against a SuperLink, with Ray actors as
devices.

What runs is the project's own `pyproject.toml` (run configuration, files of the bundle) and the app's own
algorithm with the frame in a file; only the devices' training is replaced by a fixed vector.

Everything stays on this machine: a SuperLink on a free loopback port, Flower's home in a temporary folder, no
installation of dependencies, no telemetry.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

from protocol.frames import Frame
from protocol.messages import RoundTask
from server.aggregate import RoundOutcome
from server.store import Store
from tests.fleet_help import credentials_of, make_fleet, vector_of

PEOPLE = 4
FILES = {"out": "out", "devices": "devices", "frame": "frame.cbor", "credentials": "credentials"}
REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sys.executable).parent

APPS = """
import client.app
import server.app
from tests.fleet_help import VectorWork

client.app.work_factory = VectorWork
client_app = client.app.app
server_app = server.app.app


@client_app.lifespan()
def with_this_module(context):
    # Ray's actors unpickle the app and import only what it refers to: this refers them to the factory above.
    yield
"""

CONFIG = """
[superlink]
default = "here"

[superlink.here]
address = "127.0.0.1:{port}"
insecure = true
options.num-supernodes = {people}
options.backend.client-resources.num-cpus = 1
options.backend.client-resources.num-gpus = 0.0
options.backend.init-args.num-cpus = 2
"""


def project_with(folder: Path, apps: str) -> None:
    """A copy of the project as `flwr run` takes it, whose two components are those of the module `apps`."""
    text = (REPOSITORY / "pyproject.toml").read_text("utf-8")
    for old, new in (
        ('"server.app:app"', '"engine_apps:server_app"'),
        ('"client.app:app"', '"engine_apps:client_app"'),
        ("fab-include = [", 'fab-include = ["engine_apps.py", '),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    folder.mkdir()
    (folder / "pyproject.toml").write_text(text, "utf-8")
    (folder / "engine_apps.py").write_text(apps)
    for room in ("protocol", "edge_runtime", "client", "server"):
        shutil.copytree(REPOSITORY / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))


def small_frame() -> Frame:
    """One module, rank 4: 16 coordinates."""
    left = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 4)))[0]
    return Frame("0" * 64, 4, 1.0, ("blk.0.attn_v",), (left.astype("f4"),), (np.eye(4, 5, dtype="f4"),))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def superlink(environment: dict[str, str], port: int, log: Path) -> Iterator[None]:
    """A SuperLink in simulation mode; it and all its children end with the block."""
    command = [
        str(SCRIPTS / "flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess",
        "--host", "127.0.0.1", "--port", str(port), "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    with open(log, "wb") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, start_new_session=True)
    try:
        for _ in range(300):
            try:
                with urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except (URLError, ConnectionError, TimeoutError):
                if process.poll() is not None:
                    pytest.fail(f"the SuperLink ended: {log.read_text()[-2000:]}")
                time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Flower's simulation engine needs ray")
@pytest.mark.skipif(not shutil.which("flwr", path=str(SCRIPTS)), reason="the flwr command is not installed")
def test_the_same_apps_run_under_flowers_simulation_engine(tmp_path: Path) -> None:
    homes = make_fleet(tmp_path / "devices", PEOPLE)
    app, home, port, frame = tmp_path / "app", tmp_path / "flwr", free_port(), small_frame()
    project_with(app, APPS)
    home.mkdir()
    (home / "config.toml").write_text(CONFIG.format(port=port, people=PEOPLE))
    (tmp_path / "frame.cbor").write_bytes(frame.to_bytes())
    credentials_of(homes).save(tmp_path / "credentials")
    overrides: dict[str, str | int | float] = {
        **{name: str(tmp_path / file) for name, file in FILES.items()},
        **{"run-id": "engine", "rounds": 2, "shared-rounds": 1, "basis-count": 2, "noise-multiplier": 0.0},
        **{"shared-clip": 1.0, "bases-clip": 1.0},
        **{"stage-seconds": 60.0, "train.learning-rate": 0.25, "train.epochs": 2},
    }
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
    }
    with superlink(environment, port, tmp_path / "superlink.log"):
        finished = subprocess.run(
            [
                str(SCRIPTS / "flwr"), "run", str(app), "here", "--stream",
                "--run-config", " ".join(f"{key}={json.dumps(value)}" for key, value in overrides.items()),
            ],
            env=environment, capture_output=True, text=True, timeout=85, check=False,
        )  # fmt: skip
    tail = (finished.stdout + finished.stderr)[-3000:]
    store = Store(tmp_path / "out" / "fleet.db")
    rows = store.rounds("engine")
    assert [row.stage for row in rows] == ["done", "done"], tail
    for row, kind, sketch_rows in zip(rows, ("shared", "bases"), (1, min(2 + 4, frame.dimension)), strict=True):
        task = RoundTask.from_bytes(row.task)
        assert (task.kind, task.basis_count, task.dimension) == (kind, sketch_rows, frame.dimension)
        assert task.settings == {"learning_rate": 0.25, "epochs": 2}
        data = store.outcome(row.round_key)
        assert data is not None
        outcome = RoundOutcome.from_bytes(task, data)
        mean = np.mean([vector_of(person, task.update_dimension) for person in range(PEOPLE)], axis=0)
        assert outcome.survivors == PEOPLE and np.abs(outcome.mean_update - mean).max() < 1e-2
    assert {release.name for release in store.releases()} == {"shared", "bank"}
    store.close()
    (bundled,) = (home / "apps").glob("*")
    assert (bundled / "client" / "public_text.json").is_file()
