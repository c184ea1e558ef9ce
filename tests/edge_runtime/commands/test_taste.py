"""`penchant taste`: every command in text and in JSON, and one clear line on bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_runtime import device as device_module
from edge_runtime.commands.taste import taste_app
from edge_runtime.device import Device
from edge_runtime.reward.style import STYLE_NAMES
from edge_runtime.reward.taste import Taste
from protocol.bank import Bank
from protocol.feature_map import FeatureMap
from protocol.taste_release import TasteRelease
from tests.edge_runtime.memory_helpers import HashingEmbedder

K = len(STYLE_NAMES)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("PENCHANT_HOME", str(home))
    monkeypatch.delenv("PENCHANT_PASSPHRASE", raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.setattr(device_module, "_default_embedder", HashingEmbedder)
    Device.open(home, create=True).close()
    return home


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The file of a bank that knows questions."""
    space = FeatureMap(("style",), "", "", np.zeros(K, np.float32), np.eye(K, dtype=np.float32))
    direction = 4.0 * np.eye(K)[[STYLE_NAMES.index("questions")]]
    file = tmp_path / "fleet.taste"
    bank = Bank("reward", space.digest, np.zeros(K), direction, np.ones(1), np.zeros((0, 1)))
    file.write_bytes(TasteRelease(bank, space).to_bytes())
    return file


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(taste_app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_on_off_and_strength() -> None:
    assert run_json("off") == {"on": False, "strength": 1.0}
    assert run_json("strength", "1.5") == {"on": False, "strength": 1.5}
    assert run_json("on") == {"on": True, "strength": 1.5}
    assert run("strength", "2").stdout == "Taste is on, strength 2.\n"
    assert "strength lies between" in run("strength", "9", code=2).output


def test_install_and_show(home: Path, release: Path) -> None:
    assert "No release is installed" in run("show").stdout
    installed = run_json("install", str(release))
    assert installed["directions"] == 1
    shown = run_json("show")
    assert (shown["installed"], shown["fitted"], shown["goes_with"]) == (installed["installed"], False, [])
    assert "fitted with the next answer" in run("show").stdout
    with Device.open(home) as device:
        for number in range(20):
            device.feedback.add_preference(f"Day {number}?", f"Is it day {number}?", f"It is day {number}.")
        Taste(device).fit()
    shown = run_json("show")
    assert shown["choices"] == 20 and shown["fitted"] and shown["goes_with"][0]["style"] == "questions"
    assert "more questions (correlation +1.00)" in run("show").stdout


def test_what_is_no_release_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.taste"
    wrong.write_bytes(b"nothing of the kind")
    assert "not a taste release" in run("install", str(wrong), code=2).output
    assert "Cannot read" in run("install", str(tmp_path / "missing"), code=2).output
