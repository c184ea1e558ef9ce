"""The table of one set: who is scored with what, the files it writes, and that gains are where taste is."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import simulations.choices.tables as tables
from protocol.reward_model import Choices
from server.reward_bases import RewardPlan
from simulations.choices.data import judges
from simulations.choices.features import ItemFeatures
from simulations.choices.methods import Array, Method
from simulations.choices.plots import draw_curves
from simulations.choices.report import markdown
from tests.simulations.choices.choice_help import small_set

PLAN = RewardPlan(maximum_count=3)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    patch = pytest.MonkeyPatch()
    patch.setattr("simulations.choices.methods.LORE_BASES", (2,))
    patch.setattr("simulations.choices.methods.LORE_STEPS", 100)
    patch.setattr("simulations.choices.methods.BASES", (0, 2))
    choice_set = small_set()
    assert choice_set.item_features is not None
    features = ItemFeatures(choice_set.item_features, "known", None)
    try:
        return tables.compare(choice_set, features, plan=PLAN, epsilons=(8.0,), noise_seeds=2)
    finally:
        patch.undo()


def test_every_method_has_every_cell(result: dict[str, Any]) -> None:
    methods = result["methods"]
    assert list(methods) == [
        "global", "scratch", "map", "lore_softmax", "lore_centralised", "ours", "ours_residual", "ours_epsilon_8",
        "reach", "oracle"
    ]  # fmt: skip
    for rows in methods.values():
        assert list(rows["newcomers"]) == ["0", "4", "8", "16"]  # nobody has 32 choices
        for cell in (rows["fleet"], *rows["newcomers"].values()):
            for mean, low, high in cell.values():
                assert low <= mean <= high
    assert result["people"] == {"fleet_trained": 60, "fleet_reported": 60, "newcomers": 20}
    assert result["privacy"]["ours_epsilon_8"]["epsilon"] <= 8.0
    assert result["privacy"]["ours_epsilon_8"]["delta"] == pytest.approx(60**-1.1)
    assert len(methods["ours_epsilon_8"]["settings"]) == 2


def test_bases_beat_global_where_people_differ_and_nobody_beats_the_truth(result: dict[str, Any]) -> None:
    methods = result["methods"]
    assert methods["global"]["fleet"]["accuracy_gain"] == (0.0, 0.0, 0.0)
    assert methods["lore_centralised"]["fleet"]["accuracy_from_central"] == (0.0, 0.0, 0.0)
    for name in ("lore_centralised", "ours"):
        assert methods[name]["newcomers"]["16"]["accuracy_gain"][1] > 0.03
        assert methods[name]["newcomers"]["16"]["nll_gain"][1] > 0
    best = methods["oracle"]["fleet"]["accuracy"][0]
    assert best >= max(rows["fleet"]["accuracy"][0] for rows in methods.values()) - 0.02
    # the features are the scorers themselves here, so the best linear reward is the true one
    assert methods["reach"]["fleet"]["accuracy"] == pytest.approx(methods["oracle"]["fleet"]["accuracy"], abs=1e-3)


def test_newcomers_are_scored_with_their_first_choices_only() -> None:
    everybody = judges(small_set(fleet=2, newcomers=3), np.eye(40))
    seen: list[list[int]] = []

    def tastes(people: Sequence[Choices]) -> Array:
        seen.append([len(choices) for choices in people])
        return np.zeros((len(people), 40))

    silent = Method(tables.CENTRAL, lambda people: np.zeros((len(people), 40)), 0.0)
    watched = Method(tables.GLOBAL, tastes, 0.0)
    tables.score_rows({tables.GLOBAL: ([watched], everybody), tables.CENTRAL: ([silent], everybody)}, {})
    assert seen == [[24, 24], [0] * 3, [4] * 3, [8] * 3, [16] * 3]


def test_the_report_and_the_picture_show_every_method(result: dict[str, Any]) -> None:
    text = markdown({**result, "seed": 0})
    for name in ("global", "LoRe as published", "ours, epsilon 8", "true utilities"):
        assert name in text
    header = next(line for line in text.splitlines() if line.startswith("| newcomers, accuracy"))
    assert header.count("choices |") == 4
    assert draw_curves(result).startswith(b"\x89PNG")


def test_the_command_writes_three_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: dict[str, Any]
) -> None:
    choice_set = small_set()
    monkeypatch.setenv("PENCHANT_DATA", str(tmp_path))
    monkeypatch.setattr(tables, "load", lambda data, folder, seed: choice_set)
    monkeypatch.setattr(tables, "compare", lambda *arguments, **options: dict(result))
    app = typer.Typer()
    app.command()(tables.main)
    done = CliRunner().invoke(app, ["--data", "movielens", "--out", str(tmp_path / "out"), "--seed", "3"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "movielens.json").read_text())["seed"] == 3
    assert (tmp_path / "out" / "movielens.md").read_text().startswith("## movielens")
    assert (tmp_path / "out" / "movielens.png").stat().st_size > 10_000
