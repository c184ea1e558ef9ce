"""A whole fleet on loopback as it is deployed: the server's command, eight devices' commands, TLS, registered keys.

Only the devices' training is replaced by a fixed vector. Two rounds; in the first, one device is killed while it
works, one is frozen, and the server is killed in the middle of the same stage and started again.
"""

from __future__ import annotations

import base64
import json
import math
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

from client.join import join_request, keep_invitation, read_invitation, serve
from client.ledger import DeviceLedger
from client.supernode import RefusedError
from edge_runtime.device import Device
from protocol.invitation import FleetInvitation
from protocol.messages import RoundTask
from server.aggregate import RoundOutcome
from server.deploy.enrolment import enrol_requests, read_members
from server.deploy.folder import load
from server.deploy.init import FleetPlanned, init_fleet
from server.deploy.status import fleet_status
from server.store import Store
from tests.test_flower_engine import free_port, small_frame

PEOPLE, KILLED, FROZEN = 8, 0, 1
SURVIVORS = tuple(range(2, PEOPLE))
STAGE_SECONDS = 12
PATIENCE = 100.0
REPOSITORY = Path(__file__).resolve().parents[1]

NODE = f"""
import os, sys, time
from pathlib import Path
import numpy as np
import typer
import client.app
import client.stages
from client.join_commands import join
from tests.fleet_help import VectorWork

place, current, contribute = Path(os.environ["TEST_PLACE"]), [], client.stages.contribute

class Work(VectorWork):
    def compute(self, task, artefacts):
        current[:] = [self.number]
        if task.round == 0 and self.number in ({KILLED}, {FROZEN}):
            (place / f"at-work-{{self.number}}").touch()
            while not (place / "go-on").exists():
                time.sleep(0.1)
        return super().compute(task, artefacts)

def noted(task, *rest, **more):
    values = contribute(task, *rest, **more)
    np.save(place / f"{{task.digest()}}-{{current[0]}}.npy", values)
    return values

client.app.work_factory, client.stages.contribute = Work, noted
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(join)
app()
"""
SERVER = """
import typer
from server.fleet_commands import up
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(up)
app()
"""


@dataclass
class Processes:
    """Processes of one test, each with its log; whatever still runs at the end is killed by its number."""

    place: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self.log(name), "ab") as sink:
            process = subprocess.Popen(
                [sys.executable, "-c", script, *arguments],
                env=self.environment, cwd=self.place, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            )  # fmt: skip
        self.started.append(process)
        return process

    def log(self, name: str) -> Path:
        return self.place / f"{name}.log"

    def said(self, name: str) -> str:
        return self.log(name).read_text("utf-8") if self.log(name).exists() else ""

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                process.wait(10)


def wait_until(holds: Callable[[], bool], what: str, show: Callable[[], str] = str) -> None:
    stop_at = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > stop_at:
            pytest.fail(f"waited in vain for {what}: {show()[-3000:]}")
        time.sleep(0.1)


def make_device(home: Path, number: int, invitation: FleetInvitation) -> str:
    """A device that agrees to take part; returns its join request."""
    with Device.open(home, create=True, key_method="file") as device:
        device.vault.put_blob("test/number", str(number).encode())
        device.change_settings(share=True, epsilon_budget=math.inf, minimum_roster=3)
        keep_invitation(device, invitation)
        return join_request(device, invitation)


def make_fleet(place: Path, people: int) -> Path:
    """A fleet with its enrolled devices under `place`, ready for two rounds without noise."""
    root = place / "fleet"
    planned = FleetPlanned("village", f"127.0.0.1:{free_port()}", people=people, rounds=2, noise_multiplier=0.0)
    invitation = init_fleet(root, planned)
    requests = []
    for number in range(people):
        requests.append(place / f"{number}.request")
        requests[-1].write_text(make_device(place / f"device-{number}", number, invitation))
    (root / "frame.cbor").write_bytes(small_frame().to_bytes())
    text = (root / "fleet.toml").read_text()
    for old, new in (
        ('frame = ""', 'frame = "frame.cbor"'),
        ("epsilon-budget = 8.0", "epsilon-budget = inf"),
        ("stage-seconds = 900.0", f"stage-seconds = {STAGE_SECONDS}.0"),
        ("dashboard-port = ", "dashboard-port = 0  # "),
    ):
        assert old in text
        text = text.replace(old, new)
    text += "minimum-survivors = 5\nshared-rounds = 1\nbasis-count = 2\nshared-clip = 1.0\nbases-clip = 1.0\n"
    (root / "fleet.toml").write_text(text)
    folder, config = load(root)
    assert len(enrol_requests(folder, config, requests)) == people
    return root


@contextmanager
def processes(place: Path) -> Iterator[Processes]:
    environment = {
        **os.environ,
        "TEST_PLACE": str(place),
        "PYTHONPATH": str(REPOSITORY),
        "FLWR_TELEMETRY_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    group = Processes(place, environment)
    try:
        yield group
    finally:
        group.end()


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that is set after a while, for a node that should have ended by itself."""
    stop = threading.Event()
    timer = threading.Timer(20.0, stop.set)
    timer.start()
    try:
        yield stop
    finally:
        timer.cancel()


def assert_strangers_are_refused(place: Path, invitation: FleetInvitation) -> None:
    """A device with another key, a caller without any, and whoever tries the other APIs of Flower's SuperLink."""
    stranger = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(RefusedError, match="does not know this device's key"), stopping() as stop:
        serve(place / "device-2", invitation, stranger, lambda line: None, stop)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=invitation.ca_certificate)
    url = f"https://{invitation.address}"
    public = read_members(load(place / "fleet")[0]).members[0].node_key.encode()
    activate = ActivateNodeRequest(public_key=public, heartbeat_interval=10.0).SerializeToString()
    protobuf = {"content-type": PROTOBUF_MEDIA_TYPE, "accept": PROTOBUF_MEDIA_TYPE}
    with httpx.Client(verify=context, trust_env=False) as client:
        assert client.post(f"{url}/v1/fleet/activate-node", headers=protobuf, content=activate).status_code == 401
        # A member's public key is no secret: with another key's signature it opens nothing.
        now = datetime.now(UTC).isoformat()
        forged = {
            FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public).decode(),
            TIMESTAMP_HEADER: now,
            FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(sign_message(stranger, now.encode())).decode(),
        }
        answer = client.post(f"{url}/v1/fleet/activate-node", headers=protobuf | forged, content=activate)
        assert answer.status_code == 401
        for path in ("/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task", "/docs"):
            assert client.post(url + path, headers=protobuf).status_code == 404
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(url, trust_env=False)  # the public authorities do not vouch for it


def test_a_fleet_survives_a_killed_device_a_frozen_device_and_a_killed_server(tmp_path: Path) -> None:
    root = make_fleet(tmp_path, PEOPLE)
    invitation = read_invitation(root / "invitation.json")
    with processes(tmp_path) as group:
        server = group.start("server", SERVER, str(root))
        nodes = {
            number: group.start(f"node-{number}", NODE, "--wait", "--home", str(tmp_path / f"device-{number}"))
            for number in range(PEOPLE)
        }

        def logs() -> str:
            return group.said("server") + "\n".join(group.said(f"node-{number}")[-300:] for number in nodes)

        both = [tmp_path / f"at-work-{number}" for number in (KILLED, FROZEN)]
        wait_until(lambda: all(path.exists() for path in both), "two devices at work", logs)
        nodes[KILLED].send_signal(signal.SIGKILL)
        nodes[FROZEN].send_signal(signal.SIGSTOP)
        assert_strangers_are_refused(tmp_path, invitation)
        wait_until(lambda: "round 1, attempt 1: collect" in group.said("server"), "a first upload", logs)
        assert fleet_status(root).running
        server.send_signal(signal.SIGKILL)
        server.wait(10)
        assert not fleet_status(root).running

        config = root / "fleet.toml"
        config.write_text(config.read_text().replace(f"wait-for = {PEOPLE}", f"wait-for = {len(SURVIVORS)}"))
        server = group.start("server", SERVER, str(root))
        wait_until(lambda: "round 1, attempt 1: publish" in group.said("server"), "the first sum", logs)
        (tmp_path / "go-on").touch()
        nodes[FROZEN].send_signal(signal.SIGCONT)
        nodes[KILLED] = group.start(f"node-{KILLED}", NODE, "--home", str(tmp_path / f"device-{KILLED}"))
        wait_until(lambda: server.poll() is not None, "the run's end", logs)
        assert server.returncode == 0, logs()
        nodes[2].send_signal(signal.SIGINT)
        assert nodes[2].wait(30) == 0
        assert "Disconnected." in group.said("node-2")

    status = fleet_status(root)
    assert "Infinity" not in json.dumps(status.to_dict())  # no noise, no guarantee: None
    assert [(entry.stage, entry.attempt) for entry in status.rounds] == [("done", 0), ("done", 0)]
    assert (status.rounds[0].cohort, status.rounds[0].dropped) == (PEOPLE, 2)
    store = Store(root / "out" / "fleet.db")
    rows = store.rounds(status.run_id)
    for row in rows:
        task, data = RoundTask.from_bytes(row.task), store.outcome(row.round_key)
        assert data is not None
        outcome = RoundOutcome.from_bytes(task, data)
        given = {int(path.stem.rpartition("-")[2]): np.load(path) for path in tmp_path.glob(f"{task.digest()}-*.npy")}
        in_sum = SURVIVORS if row.round == 0 else tuple(sorted(given))
        assert outcome.survivors == len(in_sum) >= len(SURVIVORS)
        assert np.array_equal(outcome.integer_sum, np.sum([given[number] for number in in_sum], axis=0))
    assert [(entry.round, entry.attempt) for entry in store.ledger_rows()] == [(0, 0), (1, 0)]
    assert len(store.releases()) == 2
    store.close()
    for number in SURVIVORS:
        with Device.open(tmp_path / f"device-{number}") as device:
            entries = DeviceLedger(device.vault).entries()
            assert [(entry.round, entry.attempt) for entry in entries] == [(0, 0), (1, 0)]
