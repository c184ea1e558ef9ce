"""An error that nobody expected shows no variable of a study: it may hold somebody's text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
from simulations.study_command import as_command
def main() -> None:
    letter = "dear " + "diary"
    raise RuntimeError(f"{len(letter)} characters")
as_command(main)
"""


def test_a_traceback_holds_no_variable() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "10 characters" in done.stderr and "dear diary" not in done.stderr


def test_no_study_runs_in_another_way() -> None:
    studies = Path(__file__).parents[2] / "simulations"
    assert not [file.name for file in studies.rglob("*.py") if "typer.run(" in file.read_text(encoding="utf-8")]
