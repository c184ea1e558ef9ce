"""The fuzzer runs for a while and finds nothing in our parsers, but at once what is wrong with a careless one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 60
pytestmark = [
    pytest.mark.fuzz,
    pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed (Linux only)"),
]


def fuzz(folder: Path, seconds: int, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz.fuzz_messages", str(folder), "--seconds", str(seconds), *options]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, errors="replace", timeout=seconds + 100, check=False
    )


def test_no_parser_of_others_bytes_lets_anything_but_a_clear_error_out(tmp_path: Path) -> None:
    finished = fuzz(tmp_path, SECONDS)
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-3000:]
    lines = (tmp_path / "runs").read_text().splitlines()
    runs = {name: int(count) for count, name in (line.split(" ", 1) for line in lines)}
    seeded = {path.name.split("-")[0] for path in (tmp_path / "corpus").glob("*-*")}
    assert len(runs) == len(seeded) > 20  # every parser has something genuine to start from
    assert min(runs.values()) > 100, runs


def test_a_planted_bug_is_found(tmp_path: Path) -> None:
    finished = fuzz(tmp_path, SECONDS, "--planted")
    assert finished.returncode != 0
    assert "IndexError" in finished.stdout and "careless" in finished.stdout, finished.stdout[-3000:]
