"""An experiment's file: what it sets, and one clear line for whatever is wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.training import TrainingPlan
from protocol.errors import PenchantError
from server.algorithms import PreferencePlan
from simulations.datasets.writing import DATA_VARIABLE
from simulations.experiments.arms import HeldOut
from simulations.experiments.settings import ExperimentSettings
from simulations.experiments.sweep import read_points
from simulations.people import Person

GOOD = """
title = "A test village"
noise_multiplier = 1.75
delta = 1e-4
frame_kinds = ["ffn_down"]
frame_rank = 3
seed = 11

[people]
source = "village"
fleet = 9

[training]
messages = 5
learning_rate = 0.3

[plan]
shared_rounds = 4
basis_count = 2

[held_out]
messages = 1
"""
VILLAGE = '[people]\nsource = "village"\nfleet = 8\n'


def read_experiment(file: Path) -> tuple[ExperimentSettings, list[Person]]:
    """The one run of a file without a sweep."""
    (point,) = read_points(file)
    assert point.name == ""
    return point.settings, point.people


def written(folder: Path, content: str) -> Path:
    file = folder / "experiment.toml"
    file.write_text(content, encoding="utf-8")
    return file


def refused(folder: Path, content: str) -> str:
    """The one line that reading this file ends with."""
    with pytest.raises(PenchantError) as caught:
        read_experiment(written(folder, content))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_file_sets_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    settings, people = read_experiment(written(tmp_path, GOOD))
    expected = ExperimentSettings(
        title="A test village",
        noise_multiplier=1.75,
        delta=1e-4,
        frame_kinds=("ffn_down",),
        frame_rank=3,
        seed=11,
        training=TrainingPlan(messages=5, learning_rate=0.3),
        plan=PreferencePlan(shared_rounds=4, basis_count=2),
        held_out=HeldOut(messages=1),
    )
    assert settings == expected
    assert sum(person.role == "fleet" for person in people) == 9
    assert any(person.role == "newcomer" for person in people)


def test_without_a_title_the_file_gives_its_name(tmp_path: Path) -> None:
    settings, people = read_experiment(written(tmp_path, VILLAGE))
    assert settings == ExperimentSettings(title="experiment") and sum(p.role == "fleet" for p in people) == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("colour = 3\n" + VILLAGE, "no experiment setting 'colour'"),
        (VILLAGE + "[training]\nmomentum = 0.9\n", "[training] has no setting 'momentum'"),
        (VILLAGE + "[plan]\nrank = 3\n", "[plan] has no setting 'rank'"),
        (VILLAGE + "[held_out]\nnovels = 3\n", "[held_out] has no setting 'novels'"),
        ('[people]\nsource = "village"\nage = 3\n', "[people] has no setting 'age'"),
    ],
)
def test_an_unknown_setting_is_named(tmp_path: Path, content: str, message: str) -> None:
    assert message in refused(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    [
        '[people]\nsource = "village"\nfleet = "many"\n',
        "training = 3\n" + VILLAGE,
        "frame_kinds = 3\n" + VILLAGE,
        VILLAGE + '[plan]\nshared_rounds = "many"\n',
    ],
)
def test_a_wrong_type_is_named_with_the_file(tmp_path: Path, content: str) -> None:
    assert "experiment.toml: a setting has the wrong type" in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed = 1\n", "needs a table [people]"),
        ("people = 24\n", "needs a table [people]"),
        ("[people]\nfleet = 8\n", "village, blogs, novels"),
        ('[people]\nsource = "town"\n', "village, blogs, novels"),
        ("[people\n", "is not TOML"),
        (VILLAGE + "[plan]\nshared_rounds = 0\nbases_rounds = 0\n", "at least one round"),
    ],
)
def test_missing_people_and_broken_files_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    assert message in refused(tmp_path, content)


def test_a_missing_file_and_one_that_is_no_text_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="cannot read"):
        read_experiment(tmp_path / "nowhere.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PenchantError, match="is not TOML"):
        read_experiment(tmp_path / "bytes.toml")


@pytest.mark.parametrize("source", ["blogs", "novels"])
def test_data_that_is_not_there_says_how_to_set_it(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    assert DATA_VARIABLE in refused(tmp_path, f'[people]\nsource = "{source}"\nfleet = 8\n')


def test_a_setting_of_the_wrong_type_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text('noise_multiplier = "loud"\n[people]\nsource = "village"\n', encoding="utf-8")
    with pytest.raises(PenchantError, match="noise_multiplier"):
        read_experiment(file)


def test_the_village_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    file = tmp_path / "large.toml"
    file.write_text('[people]\nsource = "village"\nfleet = 100\n', encoding="utf-8")
    with pytest.raises(PenchantError, match="26"):
        read_experiment(file)
