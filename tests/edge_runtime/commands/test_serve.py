"""`penchant serve`: a real server in a process of its own, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import webbrowser
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from edge_runtime.api.server import loopback_socket
from edge_runtime.commands.serve import serve
from edge_runtime.device import Device
from tests.edge_runtime.api.api_helpers import make_device, wait_until
from tests.tiny_model import write_tiny_model

ROOT = Path(__file__).parents[3]
_PROGRAM = "import typer; from edge_runtime.commands.serve import serve; typer.run(serve)"

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(serve)


@contextmanager
def started(home: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The command in a process of its own, and what it printed first."""
    model = write_tiny_model(home.parent / "tiny.gguf", seed=0)
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, "--home", str(home), "--port", "0", "--json", "--model", str(model),
         "--threads", "1", *options],
        cwd=ROOT, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield process, json.loads(line)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(tmp_path: Path, ending: signal.Signals) -> None:
    home = make_device(tmp_path / "home")
    with started(home) as (process, told):
        assert told["base_url"].startswith("http://127.0.0.1:") and told["url"].endswith(f"/#token={told['token']}")
        client = httpx.Client(base_url=told["base_url"][:-3], headers={"Authorization": f"Bearer {told['token']}"})
        assert client.get("/api/health").status_code == 200
        assert client.post("/api/memories?source=a", json={"text": "Oriane sings"}).status_code in (200, 400)
        assert client.get("/nowhere?about=Oriane").status_code == 404
        assert client.get("/v1/models").json()["data"][3]["id"] == "tiny"
        wait_until(lambda: client.get("/api/status").json()["model"]["state"] == "ready", 30)
        client.close()
        process.send_signal(ending)
        printed, errors = process.communicate(timeout=20)
    assert process.returncode == 0 and printed == ""
    assert "Loading the model" in errors and "Ready: tiny" in errors and "Stopped." in errors
    assert "Oriane" not in errors and told["token"] not in errors and "Traceback" not in errors


def test_it_starts_locked_and_the_page_unlocks_it(tmp_path: Path) -> None:
    home = make_device(tmp_path / "home", passphrase="open sesame")
    with started(home, "--locked") as (_, told):
        client = httpx.Client(base_url=told["base_url"][:-3], headers={"Authorization": f"Bearer {told['token']}"})
        assert client.get("/api/status").json()["locked"] is True
        assert client.get("/api/memories").status_code == 423
        assert client.post("/api/unlock", json={"passphrase": "open sesame"}).json()["locked"] is False
        assert client.get("/api/memories").status_code == 200
        client.close()


def run(*options: str) -> Any:
    return CliRunner().invoke(app, list(options))


def fails_with(message: str, *options: str) -> None:
    result = run(*options)
    assert result.exit_code == 2 and message in result.stderr and result.stdout == "", result.output
    assert result.stderr.startswith("Error: ") and result.stderr.strip().count("\n") == 0


def test_what_cannot_be_served_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENCHANT_PASSPHRASE", raising=False)
    home = make_device(tmp_path / "home", passphrase="open sesame")
    with loopback_socket(0) as taken:
        port = str(taken.getsockname()[1])
        fails_with(f"Port {port} cannot be used", "--home", str(home), "--port", port)
    for host in ("0.0.0.0", "192.168.1.2", "::", "localhost", ""):
        fails_with("for this machine only", "--home", str(home), "--port", "0", "--host", host)
    fails_with("leave --locked or --new-token out", "--home", str(home), "--locked", "--new-token")
    fails_with("passphrase", "--home", str(home), "--port", "0")
    assert run("--port", "70000").exit_code == 2


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A server that ends at once, and a browser that only looks; what the browser was shown."""
    from edge_runtime.api.server import LoopbackServer
    from edge_runtime.api.session import Session

    shown: list[str] = []

    def look(url: str) -> bool:
        file = Path(url.removeprefix("file://"))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        shown.append(file.read_text())
        return True

    monkeypatch.setattr(webbrowser, "open", look)
    monkeypatch.setattr(LoopbackServer, "serve_on", lambda self, listening: None)
    monkeypatch.setattr(Session, "preload", lambda self: Future())
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.delenv("PENCHANT_PASSPHRASE", raising=False)
    return shown


def test_the_first_start_sets_the_device_up_and_prints_one_line(tmp_path: Path, quick: list[str]) -> None:
    home = tmp_path / "home"
    result = run("--home", str(home), "--port", "0", "--open")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1 and "http://127.0.0.1:" in result.stdout and "/#token=" in result.stdout
    assert f"New device in {home}" in result.stderr and "Stopped." in result.stderr
    token = result.stdout.split("#token=")[1].split()[0]
    assert len(quick) == 1 and f"#token={token}" in quick[0]
    assert not (home / "open.html").exists()  # the browser's way in is gone
    for file in home.rglob("*"):
        assert not file.is_file() or token.encode() not in file.read_bytes()


def test_the_token_stays_until_a_new_one_is_asked_for(tmp_path: Path, quick: list[str]) -> None:
    home = make_device(tmp_path / "home")

    def token(*options: str) -> str:
        return str(json.loads(run("--home", str(home), "--port", "0", "--json", *options).stdout)["token"])

    first = token()
    assert token() == first
    second = token("--new-token")
    assert second != first and token() == second and quick == []
    with Device.open(home) as device:
        assert len(device.memory) == 0  # it is not open any more
