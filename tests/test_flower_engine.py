"""The same two apps under Flower's own simulation engine: `flwr run` against a SuperLink, with Ray actors as
devices.

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

from protocol.messages import RoundTask
from server.aggregate import RoundOutcome
from server.store import Store
from tests.fleet_help import DIMENSION, make_fleet, vector_of

PEOPLE = 4
REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sys.executable).parent

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "engine-test"
version = "0.1.0"
description = "The fleet's two apps with a fixed vector instead of training"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "penchant"

[tool.flwr.app.components]
serverapp = "engine_apps:server_app"
clientapp = "engine_apps:client_app"

[tool.flwr.app.config]
out = ""
devices = ""
run-id = "engine"
rounds = 2
noise-multiplier = 0.0
delta = 1e-5
stage-seconds = 60.0
"""

APPS = """
import client.app
import server.app
from tests.fleet_help import MeanAlgorithm, VectorWork

client.app.work_factory = VectorWork
server.app.algorithm_factory = lambda config, out: MeanAlgorithm()
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
    make_fleet(tmp_path / "devices", PEOPLE)
    app, home, port = tmp_path / "app", tmp_path / "flwr", free_port()
    app.mkdir()
    home.mkdir()
    (app / "pyproject.toml").write_text(PYPROJECT)
    (app / "engine_apps.py").write_text(APPS)
    (home / "config.toml").write_text(CONFIG.format(port=port, people=PEOPLE))
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
                "--run-config", f"out={json.dumps(str(tmp_path / 'out'))}",
                "--run-config", f"devices={json.dumps(str(tmp_path / 'devices'))}",
            ],
            env=environment, capture_output=True, text=True, timeout=85, check=False,
        )  # fmt: skip
    tail = (finished.stdout + finished.stderr)[-3000:]
    store = Store(tmp_path / "out" / "fleet.db")
    rows = store.rounds("engine")
    assert [row.stage for row in rows] == ["done", "done"], tail
    data = store.outcome(rows[1].round_key)
    assert data is not None
    task = RoundTask.from_bytes(rows[1].task)
    outcome = RoundOutcome.from_bytes(task, data)
    mean = np.mean([vector_of(person, DIMENSION) for person in range(PEOPLE)], axis=0)
    assert outcome.survivors == PEOPLE and np.abs(outcome.mean_update - mean).max() < 1e-2
    store.close()
