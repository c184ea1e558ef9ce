"""The database of finished runs and what is compared in it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from protocol.errors import PenchantError
from simulations.reports.comparison import as_markdown, compare, rows_of, run_rows, show_comparison, write_comparison
from simulations.reports.runs_database import append_run, read_runs
from simulations.statistics import mean_interval
from tests.simulations.reports.report_fixture import invented_report

PEOPLE = 30


def report(shift: float, *, noise: float, people: str = "same") -> dict[str, Any]:
    """An invented report whose `rag` arm has each person's loss lower by the share `shift` than the base run."""
    made = invented_report()
    for name, arm in [*made["arms"].items(), *made["controls"].items()]:
        scale = 1.0 - shift if name == "rag" else 1.0
        arm["losses"] = [scale * (arm["loss"] + 0.01 * place) for place in range(PEOPLE)]
    made["settings"] = {"title": "x", "noise_multiplier": noise, "plan": {"rounds": 3, "clip": 0.5}}
    made["people_sha256"] = people
    return made


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    append_run(report(0.0, noise=1.0), tmp_path / "first")
    append_run(report(0.1, noise=2.0), tmp_path / "second")
    append_run(report(0.1, noise=2.0, people="others"), tmp_path / "third")
    return tmp_path


def test_a_run_comes_back_as_it_was_and_once(runs: Path) -> None:
    append_run(report(0.2, noise=3.0), runs / "first")
    rows = {row.name: row for row in read_runs(runs)}
    assert set(rows) == {"first", "second", "third"} and rows["first"].facts["people_sha256"] == "same"
    whole = report(0.2, noise=3.0)
    assert rows["first"].arms["rag"].losses == tuple(whole["arms"]["rag"]["losses"])
    assert rows["first"].arms["rag"].interval == tuple(whole["arms"]["rag"]["interval"])
    assert {name for name, arm in rows["first"].arms.items() if arm.control} == set(whole["controls"])
    with sqlite3.connect(runs / "runs.db") as database:
        assert database.execute("SELECT count(*) FROM arms WHERE run = 'first'").fetchone() == (
            len(rows["first"].arms),
        )


def test_differences_are_paired_over_the_same_people_only(runs: Path) -> None:
    comparison = compare(read_runs(runs), ["first", "second", "third"])
    found = comparison.differences["second", "rag"]
    assert found.gain == pytest.approx(0.1) and found.gain_interval == pytest.approx((0.1, 0.1))
    assert comparison.differences["second", "none"].gain == 0.0
    assert not any(run == "third" for run, _ in comparison.differences)
    backwards = compare(read_runs(runs), ["second", "first"]).differences["first", "rag"]
    assert backwards.gain == pytest.approx(1 - 1 / 0.9)


def test_the_interval_of_a_difference_is_that_of_its_mean(tmp_path: Path) -> None:
    base, other = report(0.0, noise=1.0), report(0.0, noise=1.0)
    factors = [0.8, 0.9, 1.1] * (PEOPLE // 3)
    losses = base["arms"]["rag"]["losses"]
    other["arms"]["rag"]["losses"] = [factor * loss for factor, loss in zip(factors, losses, strict=True)]
    append_run(base, tmp_path / "base")
    append_run(other, tmp_path / "other")
    found = compare(read_runs(tmp_path), ["base", "other"]).differences["other", "rag"]
    assert (found.gain, *found.gain_interval) == pytest.approx(mean_interval([1 - factor for factor in factors]))


def test_only_what_differs_is_shown_of_the_settings(runs: Path) -> None:
    comparison = compare(read_runs(runs), ["first", "second"])
    assert comparison.settings == {"first": {"noise_multiplier": "1.0"}, "second": {"noise_multiplier": "2.0"}}
    assert [row[:2] for row in run_rows(comparison)] == [
        ["first", "noise_multiplier 1.0"], ["second", "noise_multiplier 2.0"],
    ]  # fmt: skip


def test_table_page_and_markdown_hold_every_row(runs: Path, tmp_path: Path) -> None:
    comparison = compare(read_runs(runs))
    page = write_comparison(comparison, tmp_path / "out").read_text("utf-8")
    rows, markdown = rows_of(comparison), as_markdown(comparison)
    assert len(rows) == 3 * len(comparison.runs[0].arms) and "data:image/png;base64," in page
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    for row in rows:
        assert f"| {' | '.join(row)} |" in markdown and row[2] in page
    console = Console(record=True, width=200)
    show_comparison(comparison, console)
    shown = console.export_text()
    assert all(row[2] in shown for row in rows) and "<script" not in page


def test_what_cannot_be_compared_is_one_clear_line(runs: Path, tmp_path: Path) -> None:
    for names, message in ((["first", "fourth"], "no run 'fourth'"), (["first"], "at least two")):
        with pytest.raises(PenchantError, match=message):
            compare(read_runs(runs), names)
    with pytest.raises(PenchantError, match="appears beside the run folders"):
        read_runs(tmp_path / "nowhere")
    (tmp_path / "bad.db").write_bytes(b"no database" * 100)
    with pytest.raises(PenchantError, match=r"bad\.db cannot be used"):
        read_runs(tmp_path / "bad.db")
