"""PEFT-U's files of users: single labels of train and test, options over all people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protocol.errors import PenchantError
from simulations.benchmarks.peft_u import TUNING, peft_u
from tests.simulations.benchmarks.help import write_json


def sample(text: str, *labels: str) -> dict[str, Any]:
    return {"text": text, "label": list(labels)}


def users(people: int = TUNING + 2) -> dict[str, Any]:
    parts = {
        "train": {"1": sample("A grey sky", "sad"), "2": sample("A cake", "glad"), "3": sample("A bus", "sad", "glad")},
        "val": {},
        "test": {"4": sample("A red kite", "glad"), "5": sample("Two", "sad", "glad")},
    }
    return {str(number): parts for number in range(people)}


def test_single_labels_become_history_and_queries(tmp_path: Path) -> None:
    write_json(tmp_path / "peft_u" / "moods" / "user_data_leaked.json", users())
    read = peft_u(tmp_path, 2)
    assert read.labels == ("glad", "sad") and read.measure == "accuracy" and len(read.tasks) == 2
    task = read.tasks[0]
    assert [(row.cue, row.text) for row in task.history] == [
        ("How do you label this text? A grey sky", "sad"),
        ("How do you label this text? A cake", "glad"),
    ]
    assert [(query.input, query.gold, query.options) for query in task.queries] == [
        ("How do you label this text? A red kite", "glad", ("glad", "sad"))
    ]


def test_wrong_folders_and_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="must hold one data set"):
        peft_u(tmp_path, 2)
    first = write_json(tmp_path / "peft_u" / "moods" / "user_data_no_leak.json", {"1": {"train": {}, "test": {}}})
    with pytest.raises(PenchantError, match="has 0 labels"):
        peft_u(tmp_path, 2)
    write_json(first, {"7": {"train": {"9": {"text": "kiln", "label": "kiln"}}, "test": {}}})
    with pytest.raises(PenchantError, match=r"7\.train\.9\.label") as refused:
        peft_u(tmp_path, 2)
    assert "kiln" not in str(refused.value)
    write_json(tmp_path / "peft_u" / "more" / "user_data_leaked.json", users())
    with pytest.raises(PenchantError, match="it holds 2"):
        peft_u(tmp_path, 2)
