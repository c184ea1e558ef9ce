"""`penchant profile`: every command in text and in JSON, and one clear line on bad input."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from edge_runtime import device as device_module
from edge_runtime.commands import profile as commands
from edge_runtime.commands.profile import profile_app
from edge_runtime.device import Device
from edge_runtime.memory.statements import Statement
from tests.edge_runtime.memory_helpers import HashingEmbedder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("PENCHANT_HOME", str(home))
    monkeypatch.delenv("PENCHANT_PASSPHRASE", raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.setattr(device_module, "_default_embedder", HashingEmbedder)
    with Device.open(home, create=True) as device:
        device.memory.remember_many(
            [Statement("I live in Lyon.", said_at="2025-01-01"), Statement("I love jazz.", said_at="2025-02-01")]
        )
    return home


def run(*arguments: str, stdin: str | None = None, code: int = 0) -> Any:
    result = CliRunner().invoke(profile_app, list(arguments), input=stdin)
    assert result.exit_code == code, result.output
    return result


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_rebuild_and_show() -> None:
    assert run_json("rebuild") == {"attributes": 2, "proposed_rules": 0}
    shown = run_json("show")
    assert [(found["name"], found["value"]) for found in shown["attributes"]] == [
        ("likes", "jazz"),
        ("lives_in", "Lyon"),
    ]
    assert shown["rules"] == [] and shown["summary"] is None
    assert "Lyon" in run("show").stdout
    assert [found["value"] for found in run_json("show", "--as-of", "2025-01-15")["attributes"]] == ["Lyon"]


def test_set_and_remove() -> None:
    entered = run_json("set", "lives_in", "Rome")["attribute"]
    assert (entered["value"], entered["probability"], entered["source"]) == ("Rome", 1.0, "you")
    assert "Removed" in run("remove", str(entered["id"])).stdout
    assert "no attribute" in run("remove", "99", code=2).stderr


def test_rules_are_added_switched_and_removed() -> None:
    rule = run_json("rule", "add", "Keep answers short.")["rule"]
    assert rule["active"]
    assert not run_json("rule", "off", str(rule["id"]))["rule"]["active"]
    assert run_json("rule", "on", str(rule["id"]))["rule"]["active"]
    assert "Keep answers short." in run("show").stdout
    run("rule", "remove", str(rule["id"]))
    assert run_json("show")["rules"] == []
    assert "no rule" in run("rule", "off", "9", code=2).stderr


def test_questions_are_listed_without_a_terminal() -> None:
    run("rebuild")
    listed = run_json("questions")["questions"]
    assert "home" not in [question["id"] for question in listed]
    assert "What should I call you?" in run("questions").stdout


def test_questions_are_asked_at_a_terminal(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    replies = iter(["Lotte"])
    monkeypatch.setattr(commands, "_at_terminal", lambda: True)
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: next(replies, ""))
    assert "Noted 1 answers" in run("questions").stdout
    with Device.open(home) as device:
        assert [found.value for found in device.profile.attributes() if found.name == "name"] == ["Lotte"]


def test_the_summary_is_written_edited_and_removed() -> None:
    assert run_json("summary") == {"summary": None}
    assert "--write" in run("summary").stdout
    run("rebuild")
    edited = run_json("summary", "--edit", "I repair clocks.")["summary"]
    assert (edited["text"], edited["by"]) == ("I repair clocks.", "you")
    assert "I repair clocks." in run("summary").stdout
    assert run_json("summary", "--remove") == {"summary": None}
    assert "nothing to summarise" in run("summary", "--write", "--task", "drafting", code=2).stderr
    assert "one of --write" in run("summary", "--write", "--remove", code=2).stderr


def test_a_summary_is_written_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_engine_for", lambda task: nullcontext(None))
    written = run_json("summary", "--write")["summary"]
    assert written["text"] == "I live in Lyon. I like jazz." and not written["stale"]


def test_every_command_has_help_with_an_example() -> None:
    for name in ("show", "set", "remove", "questions", "summary", "rebuild"):
        assert "Example" in run(name, "--help").stdout
    for name in ("add", "on", "off", "remove"):
        assert "Example" in run("rule", name, "--help").stdout
