"""PrefEval's files: read in order, refused where their form differs, and quoted in no error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import PenchantError
from simulations.datasets.prefeval import load_prefeval

ROW: dict[str, Any] = {
    "preference": "I never eat anything with cinnamon.",
    "question": "Which dessert should I bake on Sunday? ",
    "explanation": "Many desserts hold cinnamon.",
    "violation_probability": 0.7,
    "classification_task_options": ["A lemon tart.", "Cinnamon rolls.", "Apple pie with cinnamon.", "Spiced biscuits."],
}


def write(folder: Path, **topics: Any) -> Path:
    (folder / "mcq_options").mkdir()
    for name, rows in topics.items():
        (folder / "mcq_options" / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    return folder


def test_topics_come_by_name_and_rows_in_order(tmp_path: Path) -> None:
    second = {key: value for key, value in ROW.items() if key != "violation_probability"} | {
        "preference": "I dislike tea"
    }
    topics = load_prefeval(write(tmp_path, travel=[ROW], food=[ROW, second]))
    assert list(topics) == ["food", "travel"] and [len(rows) for rows in topics.values()] == [2, 1]
    first = topics["food"][0]
    assert (first.topic, first.question) == ("food", "Which dessert should I bake on Sunday?")
    assert first.options[0] == "A lemon tart." and len(first.options) == 4
    assert topics["food"][1].preference == "I dislike tea"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"preference": " "}, "0.preference"),
        ({"question": None}, "0.question"),
        ({"classification_task_options": ["one", "two", "three"]}, "0.classification_task_options"),
        ({"classification_task_options": ["one", "two", "three", ""]}, "0.classification_task_options.3"),
    ],
)
def test_another_form_is_refused_by_place_and_not_by_text(tmp_path: Path, change: dict[str, Any], where: str) -> None:
    with pytest.raises(PenchantError, match=where) as refused:
        load_prefeval(write(tmp_path, food=[ROW | change]))
    assert "cinnamon" not in str(refused.value).lower() and "food.json" in str(refused.value)


def test_an_empty_folder_and_broken_json_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="pass the folder"):
        load_prefeval(tmp_path)
    write(tmp_path, food=[])
    (tmp_path / "mcq_options" / "food.json").write_text("{", "utf-8")
    with pytest.raises(PenchantError, match=r"food\.json is not of PrefEval's form"):
        load_prefeval(tmp_path)


def test_the_published_files_are_read_whole() -> None:
    folder = Path(os.environ.get("PENCHANT_DATA", "")) / "prefeval"
    if not (folder / "mcq_options").is_dir():
        pytest.skip("PENCHANT_DATA holds no prefeval folder")
    topics = load_prefeval(folder)
    assert len(topics) == 12 and sum(len(rows) for rows in topics.values()) == 596
