"""`penchant feedback`: thumbs, edits and choices from the command line, on answers of a kept chat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from edge_runtime import device as device_module
from edge_runtime.commands import feedback
from edge_runtime.device import Device
from tests.edge_runtime.memory_helpers import HashingEmbedder

app = typer.Typer()
for name, command in (
    ("up", feedback.up),
    ("down", feedback.down),
    ("edit", feedback.edit),
    ("choose", feedback.choose),
    ("remove", feedback.remove),
    ("list", feedback.list_feedback),
):
    app.command(name)(command)


@pytest.fixture(autouse=True)
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device with one kept chat of two exchanges; the ids of the answers."""
    monkeypatch.setenv("PENCHANT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PENCHANT_PASSPHRASE", raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.setattr(device_module, "_default_embedder", HashingEmbedder)
    with Device.open(tmp_path / "home", create=True, key_method="file") as device:
        talk, answers = device.conversations.new(), []
        for text in ("Walnut cake.", "Lemon cake."):
            device.conversations.add(talk, "user", "Name a cake")
            answers.append(device.conversations.add(talk, "assistant", text, {"candidates": []}).id)
    return answers


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_thumbs_rate_the_last_answer_or_the_one_named_and_pair_up(chat: list[int]) -> None:
    first = run_json("down", "nuts", "--turn", str(chat[0]))
    assert (
        first["rating"]["answer"] == "Walnut cake." and first["rating"]["note"] == "nuts" and first["preferences"] == []
    )
    (pair,) = run_json("up")["preferences"]
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ("Name a cake", "Lemon cake.", "Walnut cake.")
    assert f"Turn {chat[1]} is rated down" in run("down").stdout
    listed = run_json("list")
    assert listed["preferences"] == [] and [row["up"] for row in listed["ratings"]] == [False, False]


def test_an_edit_and_a_choice_are_preferences_that_can_be_taken_back(chat: list[int]) -> None:
    assert "yours rather than turn" in run("edit", "Lemon drizzle cake.").stdout
    chosen = run_json("choose", "Name a tea", "green", "black")["preference"]
    rows = run_json("list")["preferences"]
    assert [(row["chosen"], row["rejected"]) for row in rows] == [
        ("Lemon drizzle cake.", "Lemon cake."),
        ("green", "black"),
    ]
    shown = run("list").stdout
    assert "drizzle" in shown and "Preferences" in shown and "Ratings" not in shown
    assert "Taken back" in run("remove", "--preference", str(chosen["id"])).stdout
    assert len(run_json("list")["preferences"]) == 1


def test_bad_input_is_one_line(chat: list[int], tmp_path: Path) -> None:
    for message, arguments in (
        ("no turn 99", ("up", "--turn", "99")),
        ("not an answer", ("up", "--turn", "1")),
        ("either --preference or --turn", ("remove",)),
        ("no rating", ("remove", "--turn", str(chat[0]))),
        ("two different", ("choose", "a", "b", "b")),
        ("No device", ("list", "--home", str(tmp_path / "none"))),
    ):
        result = run(*arguments, code=2)
        assert message in result.stderr and result.stderr.count("\n") == 1
    assert "No feedback yet" in run("list").stdout
