"""The document of a benchmark is the contract's, an unknown name is one clear line, and a case states its ratio."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from protocol.errors import PenchantError
from simulations.bench import runner
from simulations.bench.case import Case
from simulations.cli import app


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("invented_benchmark")

    def run(on_progress: runner.OnProgress) -> dict[str, Case]:
        on_progress("measuring", 1.0)
        return {"fast": Case(3.0, 2.0, "ms", {"repeats": 5}), "alone": Case(7.0, None, "MB")}

    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "invented_benchmark", module)
    monkeypatch.setattr(runner, "BENCHMARKS", {"invented": ("invented_benchmark", "nothing real")})


def test_a_ratio_is_ours_over_the_peers() -> None:
    assert Case(3.0, 2.0, "ms").ratio == 1.5
    assert Case(3.0, None, "ms").ratio is None and Case(3.0, 0.0, "ms").ratio is None


@pytest.mark.usefixtures("invented")
def test_the_file_holds_name_machine_versions_and_cases(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = CliRunner().invoke(app, ["bench", "invented", "--json", str(file)])
    assert done.exit_code == 0 and "1.5" in done.stdout
    document = json.loads(file.read_text("utf-8"))
    assert document["name"] == "invented" and document["machine"]["cores"] >= 1
    assert set(document["versions"]) >= {"penchant", "llama-cpp-python"}
    assert document["cases"]["fast"] == {"ours": 3.0, "peer": 2.0, "ratio": 1.5, "unit": "ms", "repeats": 5}
    assert document["cases"]["alone"]["ratio"] is None


def test_every_listed_benchmark_can_be_run_by_name() -> None:
    from importlib import import_module

    for module, line in runner.BENCHMARKS.values():
        assert callable(import_module(module).run) and line


def test_an_unknown_name_or_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="choose one of"):
        runner.run_benchmark("speed", lambda stage, fraction: None)
    done = CliRunner().invoke(app, ["bench", "decode", "--json", str(tmp_path / "no" / "file.json")])
    assert done.exit_code == 2 and "there is no folder" in done.output


def test_without_a_name_the_list_is_shown() -> None:
    done = CliRunner().invoke(app, ["bench"])
    assert done.exit_code == 0 and all(name in done.stdout for name in runner.BENCHMARKS)
