"""The study on tiny models: every arm is what it says, a killed run goes on, and other settings are kept apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.errors import PenchantError
from simulations.experiments.shared_fleet import SharedAdapter
from simulations.studies.history.recipe import Recipe
from simulations.studies.history.study import BLOCK, KINDS, Study, StudySettings, heading, newest, plan, run
from simulations.studies.history.tables import write_tables
from simulations.studies.personal_fleet import Groups, HistorySplit, Workshop, device_of
from simulations.studies.rows import HEADING, RESULTS, read_rows, read_run
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.simulations.studies.history_help import person_of, tiny_shop

PEOPLE = tuple(person_of(name) for name in ("ann", "ben", "cleo"))
SETTINGS = StudySettings(
    HistorySplit("blogs", judged=3, history=14),
    recipe=Recipe(private_passes=2.0, sampling_rate=1.0),
    sizes=(3, 14),
    control_sizes=(14,),
    epsilons=(8.0,),
    private_people=1,
    gate_people=2,
)
GROUPS = Groups(PEOPLE, (), (), 3)


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    with tiny_shop() as opened:
        yield opened


def study_of(shop: Workshop, out: Path, settings: StudySettings = SETTINGS) -> Study:
    theta = 0.05 * np.random.default_rng(0).normal(size=shop.frame.dimension)
    return Study(settings, PEOPLE, shop, SharedAdapter(shop.frame, theta, 8.0, 9), out, HashingEmbedder())


@pytest.fixture(scope="module")
def finished(shop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    out = tmp_path_factory.mktemp("history")
    study = study_of(shop, out)
    (out / HEADING).write_text(json.dumps(heading(study, GROUPS)))
    run(study, KINDS, out, lambda line: None)
    return study, out


def test_work_goes_by_blocks_of_people_and_dear_parts_for_as_many_as_asked() -> None:
    units = plan(SETTINGS)
    assert units[:4] == [("memory", 0), ("shared", 0), ("personal@14", 0), ("memory", 1)]
    assert units[9:12] == [("gate", 0), ("gate", 1), ("private", 0)]
    assert units[12:] == [("personal@3", number) for number in range(3)]  # the product makes no such adapter
    many = plan(replace(SETTINGS, split=replace(SETTINGS.split, judged=BLOCK + 1), gate_people=BLOCK + 1))
    assert many.index(("gate", BLOCK - 1)) < many.index(("memory", BLOCK)) < many.index(("gate", BLOCK))


def test_every_arm_of_every_size_is_scored(finished: tuple[Study, Path]) -> None:
    _, out = finished
    document = read_run(out)
    assert list(document["people"]) == [person.id for person in PEOPLE]
    losses = document["people"]["ann"]["losses"]
    sized = {f"{arm}@{size}" for arm in ("rag", "personal", "rag+personal") for size in (3, 14)}
    controls = {"stranger_memory@14", "stranger_adapter@14"}
    private = {"personal epsilon 8@14", "rag+personal epsilon 8@14"}
    assert set(losses) == {"none", "shared", *sized, *controls, *private}
    assert set(document["people"]["cleo"]["losses"]) == {"none", "shared", *sized, *controls}
    assert all(np.isfinite(loss) for loss in losses.values())
    # One person's texts are all alike, and unlike another's: what is their own helps, what is a stranger's less.
    for person in document["people"].values():
        own = person["losses"]
        assert own["personal@14"] < own["stranger_adapter@14"] and own["personal@14"] < own["none"]
    gates = document["people"]["ben"]["gate"]
    assert gates["3"] == {"passed": False, "texts": 0} and gates["14"]["texts"] == 4
    assert document["people"]["cleo"]["gate"] == {}
    assert write_tables(out)


def test_an_arm_is_the_score_that_its_name_says(finished: tuple[Study, Path], shop: Workshop) -> None:
    study, out = finished
    losses = read_run(out)["people"]["ben"]["losses"]
    ann, ben = PEOPLE[:2]
    plain, adapters = shop.texts(ben, SETTINGS.split, None), [study.theta(number, 14)[0] for number in (0, 1)]
    assert losses["stranger_adapter@14"] == pytest.approx(shop.loss(plain, shop.adapter(adapters[0], study.space)))
    with device_of(newest(ben, 14), HashingEmbedder()) as device:
        noted = shop.texts(ben, SETTINGS.split, device)
    assert losses["rag+personal@14"] == pytest.approx(shop.loss(noted, shop.adapter(adapters[1], study.space)))
    with device_of(newest(ann, 14), HashingEmbedder()) as device:
        assert losses["stranger_memory@14"] == pytest.approx(shop.loss(shop.texts(ben, SETTINGS.split, device), None))


def test_the_smaller_history_is_the_newest_part_of_the_larger() -> None:
    ann = PEOPLE[0]
    assert newest(ann, 3) == ann.train_messages[-3:] and newest(ann, 14) == ann.train_messages


def test_a_killed_run_goes_on_and_a_half_written_row_is_made_again(
    finished: tuple[Study, Path], shop: Workshop
) -> None:
    study, out = finished
    whole = (out / RESULTS).read_text().splitlines(keepends=True)
    (out / RESULTS).write_text("".join(whole[:-2]) + whole[-2][:20])
    told: list[str] = []
    run(study, KINDS, out, told.append)
    assert len(told) == 2 and "0 min left" in told[-1]
    again = list(read_rows(out))
    key = [(row["part"], row["person"]) for row in again]
    assert sorted(key) == sorted((row["part"], row["person"]) for row in map(json.loads, whole))
    run(study, KINDS, out, told.append)
    assert len(told) == 2  # nothing is missing


def test_other_settings_leave_the_rows_that_do_not_depend_on_them(
    finished: tuple[Study, Path], shop: Workshop, tmp_path: Path
) -> None:
    study, out = finished
    other = study_of(shop, out, replace(SETTINGS, recipe=replace(SETTINGS.recipe, learning_rate=0.01)))
    same = {part for part in KINDS if study.key(part, 0) == other.key(part, 0)}
    assert same == {"memory", "shared"}
    other_out = tmp_path / "other"
    other_out.mkdir()
    (other_out / RESULTS).write_text((out / RESULTS).read_text())
    (other_out / HEADING).write_text(json.dumps(heading(other, GROUPS)))
    people: dict[str, Any] = read_run(other_out)["people"]
    assert "rag@14" in people["ann"]["losses"] and "personal@14" not in people["ann"]["losses"]
    with pytest.raises(PenchantError, match="small to large"):
        replace(SETTINGS, sizes=(14, 3))
