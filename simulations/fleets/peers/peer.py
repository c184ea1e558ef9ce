"""Our half of a comparison in turns with a program in an environment of its own.

``python_with`` makes the environment (``$PENCHANT_CACHE/peers``, else the user's cache folder) with pinned versions,
once per machine; ``Peer`` starts a script of this folder in it and asks it for one round at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from edge_runtime.models.catalogue import cache_folder
from protocol.errors import PenchantError
from simulations.fleets.peers.turns import MARK

_READY: Final = "ready"
_QUIET: Final = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
_NOT_INHERITED: Final = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def same_as_here(*packages: str) -> list[str]:
    """Pins of the versions that this environment has, so that both sides compute with the same libraries."""
    return [f"{package}=={version(package).partition('+')[0]}" for package in packages]


def python_with(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment with just these packages; made when first asked for, which takes minutes.

    Raises PenchantError if they cannot be installed.
    """
    wanted = "\n".join([sys.version, *requirements])
    folder = cache_folder() / "peers" / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / _READY).exists():
        shutil.rmtree(folder, ignore_errors=True)  # of an installation that was cut short
        folder.parent.mkdir(parents=True, exist_ok=True)
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", *requirements],
        ):
            done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
            if done.returncode:
                shutil.rmtree(folder, ignore_errors=True)
                reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
                raise PenchantError(
                    f"cannot install {requirements[0]} for the comparison ({reasons[0][:160]}): "
                    "check pip's access to a package index and the free disk space"
                )
        (folder / _READY).touch()
    return python


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED} | _QUIET


class Peer:
    """A running ``script``, of this folder unless it is a whole path; a context manager that ends it. ``what`` names
    it in errors."""

    def __init__(self, what: str, python: Path, script: str, specification: dict[str, Any]) -> None:
        self.what = what
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._file = tempfile.NamedTemporaryFile("w", suffix=".json")  # noqa: SIM115
        self._file.write(json.dumps(specification))
        self._file.flush()
        self._process = subprocess.Popen(
            [str(python), "-E", str(Path(__file__).parent / script), self._file.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=_environment() | {"OMP_NUM_THREADS": str(specification["threads"])},
        )

    def __enter__(self) -> Peer:
        try:
            self._answer("ready")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def turn(self) -> float:
        """Seconds of the peer's next round."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended: the reason is below
        return float(self._answer("seconds"))

    def finish(self) -> None:
        """Wait until its last result is written."""
        self._answer("done")

    def _answer(self, field: str) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))[field]
        self._process.wait()
        self._log.seek(0)
        last = ([line.strip() for line in self._log if line.strip()] or ["no message"])[-1]
        raise PenchantError(
            f"{self.what} ended early ({last[:200]}): remove the folder peers in the cache to reinstall it"
        )

    def _end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
        self._file.close()
