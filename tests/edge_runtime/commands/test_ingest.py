"""`penchant remember --from` and `penchant documents`: summaries for people and programs, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from edge_runtime import device as device_module
from edge_runtime.commands.ingest import From, Me, documents, remember_files
from edge_runtime.commands.support import AsJson, Home, one_line_errors
from tests.edge_runtime.memory_helpers import HashingEmbedder

app = typer.Typer()
app.command()(documents)


@app.command()
@one_line_errors
def remember(from_: From = None, me: Me = None, home: Home = None, as_json: AsJson = False) -> None:
    remember_files(from_ or [], me or [], home, as_json)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENCHANT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PENCHANT_PASSPHRASE", raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(device_module, "_default_embedder", HashingEmbedder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def run_json(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_files_are_read_listed_and_forgotten(folder: Path) -> None:
    (folder / "a.md").write_text("# Kiln\nhot\n# Wax\ncold\n")
    for number in range(5):
        (folder / f"{number}.jpg").write_bytes(b"\xff")
    shown = run("remember", "--from", folder / "a.md", "--from", folder).stdout
    assert "Read 1 document: 2 new passages, 0 known before." in shown
    assert "2 more" in shown and shown.count(".jpg") == 3 and "supported are" in shown
    assert "1 document was read before" in run("remember", "--from", folder / "a.md").stdout
    listed = run("documents").stdout
    assert "a.md" in listed and "markdown" in listed and "complete" in listed
    (document,) = run_json("documents")["documents"]
    assert "and 2 memories that came from it" in run("documents", "--forget", document["id"][:8]).stdout
    assert "No document has been read yet" in run("documents").stdout


def test_json_and_names(folder: Path) -> None:
    (folder / "chat.txt").write_text("14/03/2025, 09:30 - Ines: hi\n14/03/2025, 09:31 - Ana: hello\n")
    report = run_json("remember", "--from", folder, "--me", "Ines", "--me", "ines@example.org")
    assert report == {"documents": 1, "unchanged": 0, "chunks": 2, "duplicates": 0, "forgotten": 0, "skipped": []}
    assert run_json("documents")["documents"][0]["owned"] == ["Ines"]


def test_only_nothing_at_all_is_a_failure(folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"\xff")
    assert "there is no such file" in run("remember", "--from", folder / "missing", code=2).stdout
    run("remember", "--from", folder, code=2)
    (folder / "a.txt").write_text("x")
    run("remember", "--from", folder)


def test_errors_are_one_line() -> None:
    result = run("documents", "--forget", "abc", code=2)
    assert result.stderr.startswith("Error: ") and result.stderr.strip().count("\n") == 0


def test_progress_is_a_line_now_and_then_without_a_terminal(folder: Path) -> None:
    (folder / "a.md").write_text("".join(f"# Heading {number}\nText {number}\n" for number in range(1200)))
    lines = [line for line in run("remember", "--from", folder).stderr.splitlines() if "of 1200 passages" in line]
    assert len(lines) == 2
