"""The simulated gate errs as seldom as it says, and sees more than Student's t over texts."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from simulations.studies.gate import WORLDS, accepted, main


@pytest.mark.parametrize("world", ["alike", "like 100 tokens", "one in eight"])
@pytest.mark.parametrize("texts", [3, 7, 15])
def test_about_one_in_ten_passes_without_a_gain(world: str, texts: int) -> None:
    gate, _ = accepted(WORLDS[world], texts, 0.0, runs=400, seed=1)
    assert gate <= 0.14  # 0.1, a few standard errors of the runs


@pytest.mark.parametrize("texts", [7, 15])
def test_more_pass_with_one_than_by_student(texts: int) -> None:
    gate, student = accepted(WORLDS["like 100 tokens"], texts, 0.05, runs=400, seed=2)
    assert gate > student


def test_the_command_gives_every_row() -> None:
    app = typer.Typer()
    app.command()(main)
    shown = CliRunner().invoke(app, ["--runs", "10", "--json"])
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    assert len(told["rows"]) == 4 * len(WORLDS) and told["rows"][0]["texts"] == 3
    assert CliRunner().invoke(app, ["--runs", "3"]).exit_code == 2
