"""`fleet up` before any device is there: what it refuses, in one line each, and how it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from client.join import read_invitation
from protocol.errors import PenchantError
from protocol.invitation import JoinRequest
from protocol.keys import SigningKey
from server.deploy.enrolment import enrol_requests
from server.deploy.folder import load
from server.deploy.init import FleetPlanned, init_fleet
from server.deploy.live import read_live
from server.deploy.up import up
from server.store import Store
from tests.server.deploy.test_init import public_key
from tests.test_deployment import REPOSITORY, SERVER
from tests.test_flower_engine import free_port, small_frame


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A fleet with one member and a frame."""
    root = tmp_path / "fleet"
    init_fleet(root, FleetPlanned("village", f"127.0.0.1:{free_port()}"))
    identity, folder_and_config = SigningKey.generate(), load(root)
    request = JoinRequest(
        fleet_id=read_invitation(root / "invitation.json").trust.fleet_id,
        identity=identity.public_bytes,
        node_key=public_key(),
    )
    (tmp_path / "request").write_text(request.signed(identity))
    enrol_requests(*folder_and_config, [tmp_path / "request"])
    (root / "frame.cbor").write_bytes(small_frame().to_bytes())
    change(root, 'frame = ""', 'frame = "frame.cbor"')
    change(root, "dashboard-port = ", "dashboard-port = 0  # ")
    return root


def change(root: Path, old: str, new: str) -> None:
    text = (root / "fleet.toml").read_text()
    assert old in text
    (root / "fleet.toml").write_text(text.replace(old, new))


def test_an_empty_fleet_and_one_without_a_frame_do_not_start(root: Path, tmp_path: Path) -> None:
    init_fleet(tmp_path / "empty", FleetPlanned("empty", "127.0.0.1:9092"))
    with pytest.raises(PenchantError, match="nobody is enrolled"):
        up(tmp_path / "empty", lambda line: None)
    (root / "frame.cbor").unlink()
    with pytest.raises(PenchantError, match="'frame' is missing"):
        up(root, lambda line: None)


def test_a_second_server_is_refused_and_the_first_ends_cleanly(root: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "FLWR_TELEMETRY_ENABLED": "0"}
    with open(tmp_path / "log", "wb") as sink:
        server = subprocess.Popen([sys.executable, "-c", SERVER, str(root)], env=environment, stdout=sink, stderr=sink)
    try:
        stop_at = time.monotonic() + 40
        while "0 of 8 are connected" not in (tmp_path / "log").read_text() and time.monotonic() < stop_at:
            time.sleep(0.1)
        with pytest.raises(PenchantError, match="running already"):
            up(root, lambda line: None)
        assert read_live(root / "out" / "live.json").process == server.pid
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 130
    finally:
        if server.poll() is None:
            server.kill()
            server.wait(10)
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert read_live(root / "out" / "live.json").process == 0


def test_the_store_is_sqlite_unless_a_database_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(load(root)[1].open_store(root / "here.db")) as store:
        assert type(store) is Store and (root / "here.db").exists()
    pytest.importorskip("psycopg")
    monkeypatch.setenv("PENCHANT_FLEET_STORE", "postgresql://someone:hunter2@127.0.0.1:1/nothing")
    with pytest.raises(PenchantError, match="PostgreSQL") as caught:
        load(root)[1].open_store(root / "out" / "fleet.db")
    assert "hunter2" not in str(caught.value) and not (root / "out" / "fleet.db").exists()
