"""`penchant adapters`: notes, comparison, and word of a version that was taken back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from edge_runtime import device as device_module
from edge_runtime.adapters.versions import record_losses
from edge_runtime.commands.adapters import adapters
from edge_runtime.device import Device
from tests.edge_runtime.adapters.test_log import tiny_adapter
from tests.edge_runtime.adapters.test_versions import answer
from tests.edge_runtime.memory_helpers import HashingEmbedder


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device with two versions; the second is a little better on eight texts."""
    monkeypatch.setenv("PENCHANT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("PENCHANT_PASSPHRASE", raising=False)
    monkeypatch.setattr(device_module, "_default_embedder", HashingEmbedder)
    with Device.open(tmp_path / "home", create=True, key_method="file") as device:
        for number in range(2):
            version = device.adapters.install(tiny_adapter(number), note="own texts")
            record_losses(device.vault, version.id, {str(n): 4.0 + n - number * (0.1 + n / 100) for n in range(8)})
        record_losses(device.vault, None, {"0": 4.2, "1": 5.2})
    return tmp_path / "home"


def run(*arguments: str, code: int = 0) -> Result:
    app = typer.Typer()
    app.command()(adapters)
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done


def test_a_note_is_added_and_shown() -> None:
    rows = json.loads(run("--note", "2", "shorter replies", "--json").stdout)["adapters"]
    assert [(row["note"], row["parent_id"], row["live"]) for row in rows] == [
        ("own texts", None, False),
        ("own texts\nshorter replies", 1, True),
    ]
    assert "shorter replies" in run().stdout


def test_two_versions_are_compared_with_an_interval() -> None:
    shown = run("--compare", "1", "2").stdout
    assert "On the 8 texts" in shown and "+0.135" in shown and "adapter 2 is surely better" in shown
    assert "adapter 2 is surely better" in run("--compare", "2", "1").stdout
    compared = json.loads(run("--compare", "0", "1", "--json").stdout)["compared"]
    assert (compared["first"], compared["second"], compared["texts"], compared["low"]) == (None, 1, 2, None)
    assert "Too few texts" in run("--compare", "0", "1").stdout


def test_a_version_taken_back_is_told_at_once_and_later(own_home: Path) -> None:
    with Device.open(own_home) as device:
        first, second = device.adapters.versions()
        answer(device, first, "." * 30)
        answer(device, second, "d" * 12 + "." * 8)
    done = run("--json")
    assert "Adapter 2 was rolled back on" in done.stderr and "12 were thumbed down" in done.stderr
    assert [row["live"] for row in json.loads(done.stdout)["adapters"]] == [True, False]
    later = run("--json")
    assert later.stderr == "" and "rolled back on" in json.loads(later.stdout)["adapters"][1]["note"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--use", "1", "--off"), "one at a time"),
        (("--off", "--note", "1", "x"), "one at a time"),
        (("--note", "9", "x"), "no adapter 9"),
        (("--note", "1", " "), "note is empty"),
        (("--compare", "1", "9"), "no adapter 9"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: tuple[str, ...], why: str) -> None:
    done = run(*arguments, code=2)
    assert done.stderr.count("\n") == 1 and why in done.stderr and done.stdout == ""
