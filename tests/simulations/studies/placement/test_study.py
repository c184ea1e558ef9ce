from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from server.reward_bases import RewardPlan
from simulations.choices.reward_fleet import identity_map
from simulations.studies.placement import study as placement_study
from simulations.studies.placement.study import clustered_judges, learnt_bank, markdown, population_of, study

FEATURES = 6


def small(fleet: int) -> placement_study.Population:
    judges = clustered_judges(0, fleet=fleet, newcomers=20, kinds=3, directions=2, features=FEATURES)
    return population_of("clustered", judges, identity_map(FEATURES))


def test_tuning_people_newcomers_and_fleet_are_different_people() -> None:
    judges = clustered_judges(0, fleet=50, newcomers=10)
    population = population_of("clustered", judges, identity_map(24))
    assert (len(population.fleet), len(population.tuning), len(population.newcomers)) == (40, 10, 10)
    fleet = {id(choices) for choices in population.fleet}
    assert not fleet & {id(judge.choices) for judge in [*population.tuning, *population.newcomers]}
    again = clustered_judges(0, fleet=50, newcomers=10)[7]
    assert np.array_equal(again.choices.differences, judges[7].choices.differences)


def test_a_study_reports_every_arm_at_every_number_of_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement_study, "EPSILONS", (None, 8.0))
    monkeypatch.setattr(placement_study, "CENTROID_COUNTS", (3,))
    monkeypatch.setattr(placement_study, "COUNTS", (0, 8))
    monkeypatch.setattr(placement_study, "TUNED_AT", (8,))
    monkeypatch.setattr(placement_study, "NOISE_SEEDS", (1,))
    plan = RewardPlan(shared_rounds=1, gradient_rounds=2, final_rounds=0, maximum_count=3)
    monkeypatch.setattr(placement_study, "RewardPlan", lambda: plan)
    said: list[str] = []
    result = json.loads(json.dumps(study(small(100), said.append)))
    arms = [
        "global",
        "map",
        *(arm + tail for tail in ("", "_epsilon_8") for arm in ("copl", "place", "gate", "code", "sparse")),
    ]
    assert sorted(result["arms"]) == sorted(arms) and len(said) == 3
    for cells in result["arms"].values():
        assert list(cells) == ["0", "8"]
        for mean, low, high in cells["8"].values():
            assert low <= mean <= high
    assert result["arms"]["map"]["8"]["accuracy_over_map"] == [0.0, 0.0, 0.0]
    assert result["arms"]["map"]["8"]["accuracy_over_global"][0] > 0.0
    assert result["settings"]["code_epsilon_8"]["epsilon"] <= 8.0
    assert set(result["controversial"]["accuracy"]) == {"global", "map", "copl", "place", "gate", "code", "sparse"}
    assert markdown(result).count("\n") == 2 + len(arms)


def test_where_the_fleet_finds_no_direction_one_is_forced_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = RewardPlan(shared_rounds=1, gradient_rounds=0, final_rounds=0, maximum_count=2)
    monkeypatch.setattr(placement_study, "RewardPlan", lambda: plan)
    population = small(30)
    random = np.random.default_rng(0)
    for choices in population.fleet:
        choices.outcomes[:] = random.integers(0, 2, len(choices))
    bank, origin = learnt_bank(population)
    assert origin == "forced" and bank.count == placement_study.FORCED_DIRECTIONS


def test_the_command_writes_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement_study, "study", lambda population, echo: {"data": population.name, "arms": {}})
    monkeypatch.setattr(placement_study, "markdown", lambda result: "table\n")
    placement_study.main(tmp_path, [placement_study.Data.CLUSTERED])
    assert json.loads((tmp_path / "placement-clustered.json").read_text())["seed"] == 0
    assert (tmp_path / "placement-clustered.md").read_text() == "table\n"
