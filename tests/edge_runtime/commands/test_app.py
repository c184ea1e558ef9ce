"""The commands: helpful text, machine output, one clear line on bad input, and a chat that loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_runtime import device as device_module
from edge_runtime.commands import models as model_commands
from edge_runtime.commands.app import app
from edge_runtime.device import Device
from tests.edge_runtime.answering.test_answering import RecordingEngine
from tests.edge_runtime.memory_helpers import HashingEmbedder

ROOT = Path(__file__).parents[3]


class NamedEngine(RecordingEngine):
    class model:  # noqa: N801 - stands for an attribute
        name, sha256 = "tiny", "ab" * 32


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own with a key file, no key store, and no models."""
    home = tmp_path / "home"
    monkeypatch.setenv("PENCHANT_HOME", str(home))
    monkeypatch.delenv("PENCHANT_PASSPHRASE", raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.setattr(device_module, "_default_embedder", HashingEmbedder)

    @contextmanager
    def engine(model: str, threads: int | None, device: Device) -> Iterator[NamedEngine]:
        yield NamedEngine()

    monkeypatch.setattr(model_commands, "_opened_engine", engine)
    return home


def run(*arguments: str, stdin: str | None = None, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    assert result.exit_code == code, result.output
    return result


def run_json(*arguments: str, stdin: str | None = None) -> Any:
    return json.loads(run(*arguments, "--json", stdin=stdin).stdout)


def fails_with(message: str, *arguments: str) -> None:
    result = run(*arguments, code=2)
    assert message in result.stderr and result.stdout == ""
    assert result.stderr.strip().count("\n") == 0 and result.stderr.startswith("Error: ")


def test_remember_recall_forget(own_home: Path) -> None:
    first = run("remember", "My dog is called Bruno", "--date", "2025-03-14")
    assert "Remembered as 1 (2025-03-14)." in first.stdout
    assert f"New device in {own_home}" in first.stderr and "file permissions" in first.stderr
    assert run_json("remember", "my dog is called bruno")["remembered"][0]["said_at"] == "2025-03-14"
    shown = run("recall", "dog").stdout
    assert "Bruno" in shown and "2025-03-14" in shown and "bm25 1" in shown
    found = run_json("recall", "dog")
    assert found["query"] == "dog" and found["memories"][0]["ranks"]["bm25"] == 1 and found["memories"][0]["id"] == 1
    assert [item["text"] for item in run_json("recall")["memories"]] == ["My dog is called Bruno"]
    receipt = run_json("forget", "1")["receipts"][0]
    assert receipt["removed"]["memories"] == 1 and receipt["key_rotated"]
    assert run_json("recall", "dog")["memories"] == []
    assert "Nothing relevant" in run("recall", "dog").stdout and "Nothing is remembered yet" in run("recall").stdout


def test_remember_a_file_and_standard_input(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("I play the cello\n\nI take the 7:42 train\n", "utf-8")
    assert "Remembered 2 statements." in run("remember", "--file", str(notes)).stdout
    assert len(run_json("remember", "--file", "-", stdin="one\ntwo\nthree\n")["remembered"]) == 3
    assert len(run_json("recall")["memories"]) == 5


def test_recall_as_of() -> None:
    run("remember", "I live in Ghent", "--date", "2025-01-01")
    run("remember", "I live in Porto", "--date", "2025-06-01")
    for arguments in (("recall", "live"), ("recall",)):
        found = run_json(*arguments, "--as-of", "2025-02-01")
        assert [row["text"] for row in found["memories"]] == ["I live in Ghent"]


def test_forget_everything_needs_a_yes() -> None:
    run("remember", "I play the cello")
    fails_with("--yes", "forget", "--everything")
    assert "removed 1 memories" in run("forget", "--everything", "--yes").stdout
    assert run_json("recall")["memories"] == []


def test_forgetting_several_is_checked_before_the_first_goes() -> None:
    run("remember", "--file", "-", stdin="one\ntwo\n")
    fails_with("no memory 9", "forget", "1", "9")
    assert len(run_json("recall")["memories"]) == 2
    assert len(run_json("forget", "1", "2", "1")["receipts"]) == 2


def test_bad_input_is_one_line_and_exit_code_2(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with("No device", "recall", "dog")
    fails_with("No device", "forget", "1")
    fails_with("No device", "ledger")
    assert not own_home.exists()
    fails_with("either a text, --file or --from", "remember")
    fails_with("Cannot read", "remember", "--file", str(own_home / "missing"))
    run("remember", "I play the cello")
    fails_with("YYYY-MM-DD", "remember", "x", "--date", "14.3.2025")
    fails_with("YYYY-MM-DD", "recall", "--as-of", "tomorrow")
    fails_with("empty", "remember", "   ")
    fails_with("what to forget", "forget")
    fails_with("question is empty", "ask", " ")
    fails_with("cannot read the model file", "model", "info", str(own_home / "no.gguf"))
    (own_home / "device.key").write_text("00" * 32)
    fails_with("Wrong key", "recall", "dog")
    assert run("recall", "--memories", "0", "x", code=2).stdout == ""


def test_passphrase_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENCHANT_PASSPHRASE", "four blue herons")
    assert "file permissions" not in run("remember", "I play the cello").stderr
    assert len(run_json("recall")["memories"]) == 1
    monkeypatch.setenv("PENCHANT_PASSPHRASE", "wrong")
    fails_with("Wrong passphrase", "recall")
    monkeypatch.delenv("PENCHANT_PASSPHRASE")
    fails_with("PENCHANT_PASSPHRASE", "recall")


def test_what_a_terminal_would_obey_or_rich_would_read_is_shown_as_text() -> None:
    run("remember", "the cello [bold]is[/bold] \x1b[2Jred")
    shown = run("recall", "cello").stdout
    assert "[bold]is[/bold]" in shown and "\x1b[2J" not in shown


def test_ask_streams_an_answer_with_sources() -> None:
    run("remember", "My dog is called Bruno", "--date", "2025-03-14")
    shown = run("ask", "What is my dog called?").stdout
    assert shown.startswith("Your dog is Bruno.") and "from [1] 2025-03-14  My dog is called Bruno" in shown
    answer = run_json("ask", "What is my dog called?")
    assert answer["answer"] == "Your dog is Bruno." and answer["sources"][0]["id"] == "memory:1"
    assert answer["model"] == {"name": "tiny", "sha256": "ab" * 32} and answer["seconds"] >= 0
    assert run_json("ask", "What is my dog called?", "-k", "0")["sources"] == []
    assert len(run_json("recall")["memories"]) == 1


def test_ask_to_remember_is_remembered() -> None:
    assert run_json("ask", "Remember that I am allergic to walnuts")["remembered"]["text"] == "I am allergic to walnuts"


def test_chat_remembers_only_what_it_is_told_to() -> None:
    lines = (
        "remember that my dog is called Bruno\n\nWhat is my dog called?\n/memories\n/help\n/new\n"
        "remember that\n/quit\nremember that this comes after\n"
    )
    shown = run("chat", stdin=lines)
    assert "Remembered as 1." in shown.stdout and "Your dog is Bruno." in shown.stdout
    assert "from [1]" in shown.stdout and "start over" in shown.stdout
    assert [row["text"] for row in run_json("recall")["memories"]] == ["my dog is called Bruno"]


def test_chat_as_json_is_one_object_per_line() -> None:
    shown = run("chat", "--json", stdin="remember that my dog is called Bruno\nWhat is my dog called?\n").stdout
    remembered, answered = (json.loads(line) for line in shown.splitlines())
    assert remembered["remembered"]["text"] == "my dog is called Bruno"
    assert answered["answer"] == "Your dog is Bruno." and answered["sources"][0]["id"] == "memory:1"


def test_ctrl_c_stops_an_answer_and_not_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(NamedEngine):
        def generate(
            self,
            prompt: list[str],
            *,
            max_tokens: int,
            sampling: object,
            lookup: bool = False,
            soft_prefix: object = None,
        ) -> Iterator[str]:
            yield "Your dog"
            raise KeyboardInterrupt

    @contextmanager
    def engine(model: str, threads: int | None, device: Device) -> Iterator[NamedEngine]:
        yield Interrupted()

    monkeypatch.setattr(model_commands, "_opened_engine", engine)
    shown = run("chat", "--json", stdin="What is my dog called?\nremember that it barks\n").stdout
    answered, remembered = (json.loads(line) for line in shown.splitlines())
    assert answered == {"answer": "Your dog", "stopped": True, "turn": 2, "sources": []}
    assert remembered["remembered"]["id"] == 1


def test_ledger_reads_the_table_and_composes(own_home: Path) -> None:
    run("remember", "I play the cello")
    assert "Nothing has left" in run("ledger").stdout
    empty = run_json("ledger")
    assert empty["entries"] == [] and empty["epsilon"] == 0.0 and empty["settings"]["share"] is False
    with Device.open(own_home) as device:
        columns = "written, run_id, round, attempt, kind, size_bytes, roster_size, noise_multiplier, delta, event"
        device.vault.connection.execute(f"CREATE TABLE ledger (entry INTEGER PRIMARY KEY, {columns})")
        for number in (1, 2):
            row = (
                "2025-03-14",
                "village",
                number,
                0,
                "shared",
                7300,
                24,
                2.0,
                1e-5,
                '{"noise_multiplier": 2.0}',
            )
            device.vault.connection.execute(f"INSERT INTO ledger ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?)", row)
    shown = run_json("ledger")
    assert [entry["round"] for entry in shown["entries"]] == [1, 2] and "event" not in shown["entries"][0]
    from protocol.accounting import Accountant, PrivacyEvent

    assert shown["epsilon"] == pytest.approx(Accountant([PrivacyEvent(2.0, count=2)]).epsilon(1e-5), rel=1e-6)
    assert "epsilon" in run("ledger").stdout
    with Device.open(own_home) as device:
        device.vault.connection.execute("""UPDATE ledger SET event = '{"noise_multiplier": 0.0}' WHERE round = 2""")
    assert run_json("ledger")["epsilon"] is None


def test_every_command_has_help_with_an_example() -> None:
    for command in ("remember", "recall", "forget", "ask", "chat", "ledger", "model list", "model info"):
        shown = run(*command.split(), "--help").stdout
        assert "--json" in shown and f"penchant {command}" in shown and "Example" in shown
        assert ("--home" in shown) == (not command.startswith("model"))


def test_model_list() -> None:
    models = run_json("model", "list")["models"]
    assert {"q8_0", "q4_0", "q4_1"} <= {row["quantisation"] for row in models}
    assert all(len(row["sha256"]) == 64 for row in models)
    assert "smollm2-135m" in run("model", "list").stdout


_CHAT_CHILD = """
import sys
from edge_runtime import device
from edge_runtime.commands import models as model_commands
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.commands.test_app import NamedEngine
from contextlib import contextmanager
device._default_embedder = HashingEmbedder
@contextmanager
def engine(model, threads, device):
    yield NamedEngine()
model_commands._opened_engine = engine
from edge_runtime.commands.app import app
app(sys.argv[1:])
"""


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_chat_that_is_stopped_keeps_what_it_acknowledged(own_home: Path, how: signal.Signals, code: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", _CHAT_CHILD, "chat", "--json", "--home", str(own_home)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("remember that my dog is called Bruno\n")
    child.stdin.flush()
    assert json.loads(child.stdout.readline())["remembered"]["id"] == 1
    child.send_signal(how)
    child.wait(timeout=20)
    child.stdin.close()
    child.stdout.close()
    assert child.returncode == code
    with Device.open(own_home) as device:
        assert [item.text for item in device.memory.items()] == ["my dog is called Bruno"]
