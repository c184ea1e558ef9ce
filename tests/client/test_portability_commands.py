"""`penchant adapters move`: what is shown and said, with the move itself replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import client.portability as portability
from client.portability import Judgement, Move
from client.portability_commands import move
from edge_runtime.adapters.lineage import Lineage, ModuleChange
from edge_runtime.adapters.log import AdapterVersion
from edge_runtime.device import Device
from edge_runtime.models.catalogue import ModelFile, describe_model
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.tiny_model import write_tiny_model

app = typer.Typer()
app.command()(move)
BAD = Judgement(9, 30, 3.0, 2.8, 3.1, -0.1, float("-inf"), -0.3, float("-inf"), 0.02)
GOOD = Judgement(9, 30, 3.0, 2.8, 2.79, 0.21, 0.1, 0.01, -0.01, 0.02)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModelFile, ModelFile]:
    """The old model in PENCHANT_MODEL and a new one; a device in PENCHANT_HOME."""
    old, new = (describe_model(write_tiny_model(tmp_path / f"{seed}.gguf", seed)) for seed in (0, 1))
    monkeypatch.setenv("PENCHANT_MODEL", str(old.path))
    monkeypatch.setenv("PENCHANT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PENCHANT_PASSPHRASE", raising=False)
    Device.open(tmp_path / "home", create=True, key_method="file", embedder=HashingEmbedder()).close()
    return old, new


def outcome(monkeypatch: pytest.MonkeyPatch, kind: Any, *judgements: Judgement) -> list[dict[str, Any]]:
    """The move ends like this; what it was asked is noted."""
    asked: list[dict[str, Any]] = []
    stated = kind != "dropped"
    lineage = Lineage("a" * 64, "b" * 64, stated, 0.012, 3.5, (ModuleChange("blk.3.attn_v", 0.012, 3.5),))

    def moved(device: Device, old: ModelFile, new: ModelFile, **options: Any) -> tuple[Move, AdapterVersion | None]:
        asked.append({"old": old, "new": new} | options)
        data = None if kind == "dropped" else b"x"
        version = None if data is None else AdapterVersion(2, "c" * 64, "b" * 64, "n", None, "2025-01-01", True, True)
        return Move(kind, data, lineage, judgements, 1.0, 2.0, 0.0), version

    monkeypatch.setattr(portability, "move_on_device", moved)
    return asked


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def test_a_move_is_told(models: tuple[ModelFile, ModelFile], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = outcome(monkeypatch, "moved", GOOD)
    shown = run("--to", models[1].path, "--tolerance", 0.1, "--no-retrain").stdout
    assert "1.20% of their length" in shown and "3.5 times" in shown and "another parent" not in shown
    assert "2.800 before, 3.000 on the new model alone, 2.790" in shown and "Live as adapter 2" in shown
    assert (asked[0]["old"], asked[0]["new"]) == models
    assert asked[0]["tolerance"] == 0.1 and asked[0]["retrain"] is False


def test_a_drop_is_told_with_both_reasons(models: tuple[ModelFile, ModelFile], monkeypatch: pytest.MonkeyPatch) -> None:
    outcome(monkeypatch, "dropped", BAD, BAD)
    shown = run("--to", models[1].path).stdout
    assert "As it was: it does not surely help" in shown and "Retrained: it does not" in shown
    assert "names another parent" in shown and "did not move" in shown and "Live" not in shown


def test_json_has_no_infinity(models: tuple[ModelFile, ModelFile], monkeypatch: pytest.MonkeyPatch) -> None:
    outcome(monkeypatch, "retrained", BAD, GOOD)
    told = json.loads(run("--to", models[1].path, "--from", models[0].path, "--json").stdout)
    assert told["outcome"] == "retrained" and told["installed"]["id"] == 2 and told["lineage"]["relative"] == 0.012
    assert [one["passed"] for one in told["judgements"]] == [False, True]
    assert told["judgements"][0]["gain_low"] is None and told["judgements"][1]["gain_low"] == 0.1


def test_an_error_is_one_line(models: tuple[ModelFile, ModelFile], monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("--to", models[1].path.with_name("absent.gguf"), code=2)
    assert "absent.gguf" in result.stderr and result.stderr.strip().count("\n") == 0

    def refused(*arguments: Any, **options: Any) -> None:
        raise PenchantError("it does not descend from it")

    monkeypatch.setattr(portability, "move_on_device", refused)
    result = run("--to", models[1].path, code=2)
    assert result.stderr.strip().endswith("Error: it does not descend from it") and result.stdout == ""
