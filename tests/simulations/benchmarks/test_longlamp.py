"""LongLaMP's rows: people by their field, history from the profile, nothing of what is asked for in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protocol.errors import PenchantError
from simulations.benchmarks.longlamp import LONG_LAMP, TUNING, longlamp
from tests.simulations.benchmarks.help import write_lines

PROFILES: dict[str, dict[str, Any]] = {
    "abstract_generation": {"title": "Cold kilns", "abstract": "We study kilns.", "year": 2001},
    "product_review": {"overall": "5.0", "summary": "Red", "description": "A kettle", "reviewText": "It boils."},
    "topic_writing": {"summary": "about rain", "content": "It rained on my hat."},
}
REQUESTS = {
    "abstract_generation": 'Generate an abstract for the title "Cold kilns".',
    "product_review": 'for a product with description "A kettle". The summary of the review text is "Red".',
    "topic_writing": "Generate the content for a reddit post about rain",
}


def write_task(folder: Path, name: str, **change: Any) -> Path:
    kind = name.rsplit("_", 1)[0]
    rows = [
        {
            LONG_LAMP[name].person: f"person {place // 2}",
            "input": f"Write number {place}",
            "output": f"Long text {place}",
            "profile": [{"id": 1, **PROFILES[kind]}],
            **change,
        }
        for place in range(2 * (TUNING + 2))
    ]
    write_lines(folder / "longlamp" / name / "test.jsonl", rows)
    return folder


@pytest.mark.parametrize("name", LONG_LAMP)
def test_every_task_is_read(tmp_path: Path, name: str) -> None:
    read = longlamp(write_task(tmp_path, name), name, 2)
    kind = name.rsplit("_", 1)[0]
    assert read.measure == "rouge1" and read.answer_tokens == 256 and len(read.tasks) == 2
    task = read.tasks[0]
    assert [(query.input, query.gold) for query in task.queries] == [
        ("Write number 8", "Long text 8"),
        ("Write number 9", "Long text 9"),
    ]
    assert task.history[0].text == PROFILES[kind][LONG_LAMP[name].output]
    assert task.history[0].cue.endswith(REQUESTS[kind]) and "person" not in task.person


def test_a_text_that_is_asked_for_is_not_in_the_history(tmp_path: Path) -> None:
    profile = [{"title": "Same", "abstract": "Long  text 8"}, {"title": "Other", "abstract": "Other text"}]
    read = longlamp(write_task(tmp_path, "abstract_generation_user", profile=profile), "abstract_generation_user", 2)
    assert [row.text for row in read.tasks[0].history] == ["Other text"]


def test_wrong_rows_are_named_by_place_and_not_quoted(tmp_path: Path) -> None:
    name = "topic_writing_user"
    write_task(tmp_path, name, profile=[{"summary": "kiln"}])
    with pytest.raises(PenchantError, match=r"row 0, profile\.0\.content") as refused:
        longlamp(tmp_path, name, 2)
    assert "kiln" not in str(refused.value)
    write_task(tmp_path, name, author=None)
    with pytest.raises(PenchantError, match="row 0 has no author"):
        longlamp(tmp_path, name, 2)
    write_task(tmp_path, name, output=" ")
    with pytest.raises(PenchantError, match="line 1, output"):
        longlamp(tmp_path, name, 2)
