"""The whole `penchant` command: what it offers, what it says when something is missing or wrong, and its output."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import simulations.experiments.experiment
from edge_runtime.commands import support as command_support
from edge_runtime.commands.app import app
from protocol.errors import PenchantError
from simulations.cli import main
from simulations.stage_display import StageDisplay
from tests.simulations.reports.report_fixture import invented_report, smallest_report

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "remember", "recall", "forget", "ask", "draft", "chat", "train", "adapters", "ledger", "model", "demo", "simulate",
    "audit",
)  # fmt: skip
VILLAGE = '[people]\nsource = "village"\nfleet = 8\n'


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENCHANT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.setenv("COLUMNS", "120")


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (result.output, result.exception)
    return result


def fails_with(message: str, *arguments: str) -> None:
    result = run(*arguments, code=2)
    assert message in result.stderr and result.stdout == ""
    assert result.stderr.strip().count("\n") == 0 and result.stderr.startswith("Error: ")


def test_help_lists_every_command() -> None:
    shown = run("--help").stdout
    listed = set(re.findall(r"^[\s│]*([a-z]+)\s", shown, flags=re.MULTILINE))
    assert set(COMMANDS) <= listed


@pytest.mark.parametrize("command", [*COMMANDS, "model list", "model info"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    shown = run(*command.split(), "--help").stdout
    if command == "model":
        assert "list" in shown and "info" in shown
        return
    assert "Example" in shown and f"penchant {command}" in shown and "--json" in shown


def test_the_installed_command_is_this_one() -> None:
    (script,) = [entry for entry in entry_points(group="console_scripts") if entry.name == "penchant"]
    assert script.value == "simulations.cli:main" and script.load() is main


def test_a_base_installation_can_ask_for_help() -> None:
    """Training, fleets, pictures and the model itself are imported by the commands that need them."""
    heavy = "{'torch', 'transformers', 'flwr', 'scipy', 'matplotlib', 'opacus', 'llama_cpp', 'dp_accounting'}"
    code = f"import sys, simulations.cli; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "library"),
    [(("demo",), "flwr"), (("simulate", "x.toml", "--out", "y"), "torch"), (("train",), "torch")],
)
def test_a_missing_library_says_what_to_install(
    arguments: tuple[str, ...], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_support, "find_spec", lambda name: None if name == library else object())
    fails_with(f"this needs {library}: install it with pip install 'penchant[all]'", *arguments)


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    fails_with("cannot read", "simulate", str(tmp_path / "no.toml"), "--out", str(tmp_path / "out"))
    file = tmp_path / "experiment.toml"
    file.write_text(f"colour = 3\n{VILLAGE}")
    fails_with("no experiment setting 'colour'", "simulate", str(file), "--out", str(tmp_path / "out"))
    fails_with("No device", "train")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [("demo", "--people", "3"), ("demo", "--rounds", "0"), ("simulate",), ("demo", "--colour")]
)
def test_bad_options_are_refused_with_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments, code=2)
    assert "Usage" in result.stderr and "Traceback" not in result.output


def test_an_earlier_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out" / "devices").mkdir(parents=True)
    result = run("demo", "--out", str(tmp_path / "out"), code=2)
    assert "holds an earlier demo" in result.stderr and "--out" in result.stderr


def invent_runs(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], dict[str, Any]] = invented_report
) -> list[dict[str, Any]]:
    """Let every experiment end at once with an invented report; returns what they were asked to do."""
    asked: list[dict[str, Any]] = []

    def experiment(settings: Any, people: Any, out: Path, *, command: str, on_stage: Any) -> dict[str, Any]:
        on_stage("thinking", 0.0)
        on_stage("thinking", 1.0)
        asked.append({"settings": settings, "people": people, "out": out, "command": command})
        report = make()
        for arm in [*report["arms"].values(), *report["controls"].values()]:
            arm["losses"] = [arm["loss"]] * 2
        return {"title": settings.title, "created": "", "command": "", "peak_memory_mb": 1.0, **report,
                "settings": {}, "people_sha256": "ab"}  # fmt: skip

    monkeypatch.setattr(simulations.experiments.experiment, "run_experiment", experiment)
    return asked


def test_demo_shows_the_result_and_where_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = invent_runs(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["penchant", "demo", "--out", "a folder"])
    shown = run("demo", "--people", "9", "--rounds", "3", "--out", str(tmp_path / "out")).stdout
    (one,) = asked
    assert sum(person.role == "fleet" for person in one["people"]) == 9
    assert one["settings"].plan.rounds == 3 and one["command"] == "penchant demo --out 'a folder'"
    assert "s  thinking" in shown and "rag" in shown and "penchant chat --home" in shown
    assert (tmp_path / "out" / "report.html").exists()


def test_simulate_as_json_prints_the_report_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = invent_runs(monkeypatch, smallest_report)
    file = tmp_path / "experiment.toml"
    file.write_text(f'title = "mine"\n{VILLAGE}')
    result = run("simulate", str(file), "--out", str(tmp_path / "out"), "--json")
    assert json.loads(result.stdout)["arms"].keys() == smallest_report()["arms"].keys()
    assert "thinking" in result.stderr and asked[0]["settings"].title == "mine"
    assert json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["model"] == smallest_report()["model"]


def test_a_sweep_runs_what_is_left_and_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = invent_runs(monkeypatch)
    file, out = tmp_path / "sweep.toml", tmp_path / "runs"
    file.write_text(f"{VILLAGE}[sweep]\nseed = [1, 2]\n")
    shown = run("simulate", str(file), "--out", str(out)).stdout
    assert (
        "Run 2 of 2: seed=2" in shown
        and (out / "comparison.html").exists()
        and (out / "seed=1" / "report.html").exists()
    )
    rows = json.loads(run("simulate", str(file), "--out", str(out), "--json").stdout)["rows"]
    assert [one["settings"].seed for one in asked] == [1, 2]  # finished ones are not run again
    assert rows == json.loads(run("simulate", "compare", str(out), "--json").stdout)["rows"]
    assert {row["run"] for row in rows} == {"seed=1", "seed=2"}
    fails_with("no run 'seed=3'", "simulate", "compare", str(out), "seed=1", "seed=3")


def test_fresh_removes_an_earlier_demo_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    invent_runs(monkeypatch, smallest_report)
    earlier, other = tmp_path / "earlier", tmp_path / "other"
    for folder in (earlier, other):
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
    (earlier / "devices").mkdir()  # what a run leaves, finished or not
    fails_with("--fresh", "demo", "--out", str(earlier), "--json")
    assert (earlier / "mine.txt").exists()
    for folder in (earlier, other):
        run("demo", "--out", str(folder), "--fresh", "--json")
    assert not (earlier / "mine.txt").exists() and (other / "mine.txt").exists()


def test_stages_are_one_line_each_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with StageDisplay(Console(file=out, force_terminal=False)) as display:
        for fraction in (0.0, 0.5, 1.0):
            display("first", fraction)
        display("second", 0.0)
    lines = [line.strip() for line in out.getvalue().splitlines() if line.strip()]
    assert [line.split("  ")[-1] for line in lines] == ["first", "second"]


def test_a_failing_stage_leaves_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, on_stage: Any, **options: Any) -> None:
        on_stage("thinking", 0.0)
        raise PenchantError("training diverged;\nlower the learning rate")

    monkeypatch.setattr(simulations.experiments.experiment, "run_experiment", broken)
    result = run("demo", "--out", str(tmp_path / "out"), "--json", code=2)
    assert result.stdout == "" and result.stderr.splitlines()[-1] == (
        "Error: training diverged; lower the learning rate"
    )
