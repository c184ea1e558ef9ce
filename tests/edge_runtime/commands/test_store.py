"""`penchant export, import, passphrase, rotate`, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from edge_runtime.commands import store
from edge_runtime.device import Device
from edge_runtime.store import bundle, keys

app = typer.Typer()
for _name in ("export", "import", "passphrase", "rotate"):
    app.command(_name)(getattr(store, f"{_name}_command"))
RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (bundle, keys):
        monkeypatch.setattr(module, "SCRYPT_COST", {"n": 2, "r": 8, "p": 1})
    monkeypatch.setenv("PENCHANT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PENCHANT_BUNDLE_PASSPHRASE", "four blue herons")
    for name in ("PENCHANT_PASSPHRASE", "PENCHANT_NEW_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    with Device.open(tmp_path / "home", create=True, key_method="file") as device:
        device.profile.add_rule("Be brief")


def run(*arguments: str) -> dict[str, Any]:
    done = RUNNER.invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def refused(*arguments: str) -> str:
    done = RUNNER.invoke(app, list(arguments))
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("Error: ")
    return done.stderr


def test_a_device_goes_through_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "b.penchant")
    written = run("export", path)
    assert written["bytes"] == Path(path).stat().st_size and not written["moved"]
    done = run("import", path, "--home", str(tmp_path / "other"))
    assert done["how"] == "whole" and done["may_contribute"] is False
    with Device.open(tmp_path / "other") as other:
        assert [rule.text for rule in other.profile.rules()] == ["Be brief"]
    text = RUNNER.invoke(app, ["import", path, "--home", str(tmp_path / "other")]).output
    assert "nothing changed" in text and "Contributing is off here" in text
    assert "there already" in refused("export", path)


def test_wrong_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "b.penchant")
    run("export", path, "--move")
    monkeypatch.setenv("PENCHANT_BUNDLE_PASSPHRASE", "five")
    assert "Wrong passphrase" in refused("import", path, "--home", str(tmp_path / "other"))
    monkeypatch.delenv("PENCHANT_BUNDLE_PASSPHRASE")
    assert "PENCHANT_BUNDLE_PASSPHRASE" in refused("import", path, "--home", str(tmp_path / "other"))
    monkeypatch.setenv("PENCHANT_BUNDLE_PASSPHRASE", "x")
    assert "No device in" in refused("export", str(tmp_path / "c"), "--home", str(tmp_path / "nowhere"))


def test_the_passphrase_comes_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    assert "PENCHANT_NEW_PASSPHRASE" in refused("passphrase")
    monkeypatch.setenv("PENCHANT_NEW_PASSPHRASE", "new one")
    assert run("passphrase") == {"has_passphrase": True}
    assert "protected by a passphrase" in refused("rotate")
    monkeypatch.setenv("PENCHANT_PASSPHRASE", "new one")
    assert run("rotate") == {"rotated": True} and not (home / "device.key").exists()
    monkeypatch.setattr(keys.system_key_store, "works", lambda: False)  # type: ignore[attr-defined]
    assert "is removed" in RUNNER.invoke(app, ["passphrase", "--remove"]).output
    monkeypatch.delenv("PENCHANT_PASSPHRASE")
    with Device.open(home) as device:
        assert not device.has_passphrase and "Not now" in RUNNER.invoke(app, ["rotate"]).output
        assert "Another program" in refused("passphrase")
