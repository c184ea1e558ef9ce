"""Rows that a stopped run goes on from, and what is drawn of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.errors import PenchantError
from simulations.studies.run import StudyRun, draw_curves, markdown, shown


def test_a_run_goes_on_and_other_settings_begin_anew(tmp_path: Path) -> None:
    run = StudyRun.open(tmp_path, {"seed": 0})
    run.keep("a", {"value": 1})
    with (tmp_path / "results.jsonl").open("ab") as file:
        file.write(b'{"of": "cut sho')  # a kill in the middle of a line
    again = StudyRun.open(tmp_path, {"seed": 0})
    assert again.done["a"]["value"] == 1 and set(again.done) == {"a"}
    again.keep("b", {"value": 2})
    assert set(StudyRun.open(tmp_path, {"seed": 0}).done) == {"a", "b"}
    assert not StudyRun.open(tmp_path, {"seed": 1}).done


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PenchantError, match="choose another one"):
        StudyRun.open(tmp_path / "file", {})


def test_tables_and_pictures(tmp_path: Path) -> None:
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert shown((0.5, 0.25, 0.75), 100) == "50.0 [25.0, 75.0]"
    draw_curves(
        tmp_path / "one.png",
        {"one": [(0.0, (0.5, 0.4, 0.6)), (1.0, (0.7, 0.6, 0.8))], "empty": []},
        across="x",
        up="y",
        level=(0.5, "chance"),
        change=0.5,
    )
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
