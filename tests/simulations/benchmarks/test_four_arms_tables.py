"""The tables from rows made by hand: paired gains, the right sign, the means over sets beside the paper's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import PenchantError
from simulations.benchmarks.four_arms_tables import ARMS, gain, summary, tables, write_tables
from simulations.statistics import mean_interval
from simulations.studies.rows import HEADING, append_row


def write_set(out: Path, name: str, measure: str, people: list[dict[str, Any]], labels: tuple[str, ...] = ()) -> None:
    folder = out / name
    folder.mkdir(parents=True)
    heading = {
        "set": name,
        "measure": measure,
        "labels": labels,
        "order": [f"p{n}" for n in range(len(people))],
        "recipe": {},
        "model": {"name": "tiny"},
        "of": "x",
    }
    (folder / HEADING).write_text(json.dumps(heading))
    for number, arms in enumerate(people):
        append_row(folder, {"person": f"p{number}", "of": "x", "history": 5, "seconds": 2.0, "arms": arms})
    append_row(folder, {"person": "p0", "of": "another run", "arms": {}})


def losses(*values: float) -> dict[str, Any]:
    return {arm: [{"nats": value * 4, "tokens": 4}] for arm, value in zip(ARMS, values, strict=True)}


def choices(*rights: int) -> dict[str, Any]:
    """So many of four right, of labels 0 and 1."""
    return {
        arm: [{"gold": place % 2, "chosen": place % 2 if place < right else 1 - place % 2} for place in range(4)]
        for arm, right in zip(ARMS, rights, strict=True)
    }


def test_a_gain_is_paired_and_for_the_better(tmp_path: Path) -> None:
    write_set(tmp_path, "diaries", "nats", [losses(4, 3, 4, 2, 4, 5), losses(6, 5, 6, 5, 6, 6)])
    write_set(tmp_path, "films", "mae", [choices(2, 3, 2, 4, 1, 2), choices(2, 4, 3, 4, 2, 2)], ("bad", "good"))
    numbers = summary(tmp_path)
    diaries, films = numbers["sets"]["diaries"]["arms"], numbers["sets"]["films"]["arms"]
    assert diaries["rag"]["gain"]["mean"] == pytest.approx(100 * 1 / 5)
    assert diaries["stranger_adapter"]["gain"]["mean"] == pytest.approx(-100 * 0.5 / 5)
    mean, low, high = mean_interval([2.0, 1.0])
    assert diaries["rag+peft"]["gain"] == pytest.approx({"mean": mean * 20, "low": low * 20, "high": high * 20})
    assert films["rag"]["scores"]["accuracy"]["mean"] == pytest.approx((3 / 4 + 1) / 2)
    assert films["rag"]["gain"]["mean"] == pytest.approx(100 * (0.5 - 0.125) / 0.5)
    assert films["rag+peft"]["pooled"] == {"macro_f1": 1.0, "rmse": 0.0}
    pairs = numbers["sets"]["diaries"]["pairs"]
    assert pairs["own memory against a stranger's"]["mean"] == pytest.approx(20.0)
    assert pairs["rag + peft against rag"]["mean"] == pytest.approx(10.0)
    both = (diaries["rag"]["gain"]["mean"] + films["rag"]["gain"]["mean"]) / 2
    assert numbers["means"]["rag"]["mean"] == pytest.approx(both) and numbers["sets"]["films"]["queries"] == 8


def test_the_tables_name_sets_measures_and_the_paper(tmp_path: Path) -> None:
    write_set(tmp_path, "diaries", "nats", [losses(4, 3, 4, 2, 4, 5), losses(6, 5, 6, 5, 6, 6)])
    write_set(tmp_path, "films", "mae", [choices(2, 3, 2, 4, 1, 2), choices(2, 4, 3, 4, 2, 2)], ("bad", "good"))
    write_set(tmp_path, "alone", "mae", [choices(2, 3, 2, 4, 1, 2)])  # one person: no interval, not shown
    text = write_tables(tmp_path)
    assert "| diaries, nats per token | 2 (2) | 5.000 [" in text and "| films, mean absolute error | 2 (8) |" in text
    assert "14.92 | 1.07 | 15.98 |" in text and "mean over 2 sets" in text and "alone" not in text
    assert "| films, accuracy |" in text and "| films, macro F1 | " in text
    assert json.loads((tmp_path / "four_arms.json").read_text())["paper"]["rag"] == 14.92
    assert (tmp_path / "four_arms.md").read_text() == text and (tmp_path / "four_arms.png").stat().st_size > 1000


def test_a_model_that_is_never_right_has_no_gain_in_percent() -> None:
    people = [{"none": {"accuracy": 0.0}, "rag": {"accuracy": 0.5}}] * 2
    assert math.isnan(gain(people, "accuracy", "rag", "none")["mean"])


def test_sets_that_none_fails_are_left_out_of_the_means(tmp_path: Path) -> None:
    write_set(tmp_path, "failed", "accuracy", [choices(0, 3, 2, 4, 1, 2), choices(0, 4, 3, 4, 2, 2)])
    write_set(tmp_path, "diaries", "nats", [losses(4, 3, 4, 2, 4, 5), losses(6, 5, 6, 5, 6, 6)])
    write_set(tmp_path, "letters", "nats", [losses(4, 3, 4, 2, 4, 5), losses(6, 5, 6, 5, 6, 6)])
    numbers = summary(tmp_path)
    assert numbers["means"]["rag"]["mean"] == pytest.approx(20.0)
    assert "none is 0" in tables(numbers) and "mean over 2 sets" in tables(numbers)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match=r"no run of simulations\.benchmarks\.four_arms"):
        summary(tmp_path)
