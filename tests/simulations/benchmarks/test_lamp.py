"""LaMP's original files: every task's profile becomes requests and replies, and a wrong file is named by place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protocol.errors import PenchantError
from simulations.benchmarks.lamp import LAMP, TUNING, lamp
from tests.simulations.benchmarks.help import write_json

ITEMS: dict[str, dict[str, Any]] = {
    "LaMP_1": {"title": "Kilns at rest", "abstract": "We study kilns that are cold."},
    "LaMP_2": {"tag": "comedy", "description": "Two bakers lose a cake."},
    "LaMP_3": {"score": "4", "text": "The kettle boils and is red."},
    "LaMP_4": {"title": "Bridge opens", "text": "The bridge opened on Monday."},
    "LaMP_5": {"title": "On bread", "abstract": "Bread rises."},
    "LaMP_6": {"title": "Friday", "text": "Shall we meet on Friday?"},
    "LaMP_7": {"text": "rain again, my hat is a pond"},
}
GOLDS = {"LaMP_1": "[2]", "LaMP_2": "comedy", "LaMP_3": "4"}


def write_task(folder: Path, name: str, *, people: int = TUNING + 2, **change: Any) -> Path:
    where = folder / "lamp" / name
    item = ITEMS[name] | change
    profile = [{"id": "0", **item}, {"id": "1", **item}]
    rows = [{"id": f"{place}0", "input": f"Question {place}: what?", "profile": profile} for place in range(people)]
    golds = [{"id": row["id"], "output": GOLDS.get(name, "A gold text")} for row in rows]
    write_json(where / "dev_questions.json", rows)
    write_json(where / "dev_outputs.json", {"task": name, "golds": golds[::-1]})
    return folder


@pytest.mark.parametrize("name", LAMP)
def test_every_task_is_read(tmp_path: Path, name: str) -> None:
    read = lamp(write_task(tmp_path, name), name, 2)
    assert (read.name, read.serving, read.measure) == (name, "writing", LAMP[name].measure)
    assert [task.person for task in read.tasks] == ["40", "50"] and len(read.tuning) == TUNING
    query, first = read.tasks[0].queries[0], read.tasks[0].history[0]
    assert query.input == "Question 4: what?" and query.gold == GOLDS.get(name, "A gold text")
    assert query.options == read.labels == LAMP[name].labels
    item = ITEMS[name]
    assert first.text == item[LAMP[name].output] and first.cue.startswith(LAMP[name].request)
    if LAMP[name].about:
        assert first.cue.endswith(item[LAMP[name].about])


def test_items_with_dates_are_ordered_by_them_and_long_texts_are_cut(tmp_path: Path) -> None:
    write_task(tmp_path, "LaMP_4", text="word " * 500)
    file = tmp_path / "lamp" / "LaMP_4" / "dev_questions.json"
    item = {"text": "word " * 500}
    profile = [
        {"id": "1", "title": "Later", "date": "2020-02-01", **item},
        {"id": "2", "title": "Earlier", "date": "2019-01-01", **item},
    ]
    write_json(file, [{"id": f"{n}0", "input": "word " * 500, "profile": profile} for n in range(TUNING + 2)])
    task = lamp(tmp_path, "LaMP_4", 2).tasks[0]
    assert [row.text for row in task.history] == ["Earlier", "Later"]
    assert len(task.history[0].cue.split()) < 60 and len(task.queries[0].input.split()) == 100


def test_a_score_may_be_a_number(tmp_path: Path) -> None:
    assert lamp(write_task(tmp_path, "LaMP_3", score=4), "LaMP_3", 2).tasks[0].history[0].text == "4"


def test_wrong_files_are_named_by_place_and_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match=r"dev_questions\.json"):
        lamp(tmp_path, "LaMP_4", 2)
    write_task(tmp_path, "LaMP_4", text=7.5, title=" ")
    with pytest.raises(PenchantError, match=r"0\.profile\.0, which lacks text or title"):
        lamp(tmp_path, "LaMP_4", 2)
    write_task(tmp_path, "LaMP_2")
    questions = tmp_path / "lamp" / "LaMP_2" / "dev_questions.json"
    outputs = tmp_path / "lamp" / "LaMP_2" / "dev_outputs.json"
    write_json(outputs, {"task": "LaMP_2", "golds": [{"id": "00", "output": "pottery"}]})
    with pytest.raises(PenchantError, match="question 0 is none of the task's labels") as refused:
        lamp(tmp_path, "LaMP_2", 2)
    assert "pottery" not in str(refused.value)
    write_json(outputs, {"task": "LaMP_2", "golds": []})
    with pytest.raises(PenchantError, match="no gold for"):
        lamp(tmp_path, "LaMP_2", 2)
    write_json(outputs, {"task": "LaMP_3", "golds": []})
    with pytest.raises(PenchantError, match="another task"):
        lamp(tmp_path, "LaMP_2", 2)
    write_json(questions, [{"id": "1", "input": "kiln"}])
    with pytest.raises(PenchantError, match=r"0\.profile") as refused:
        lamp(tmp_path, "LaMP_2", 2)
    assert "kiln" not in str(refused.value)
