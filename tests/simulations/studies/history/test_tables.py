"""The tables of the history study: means, pairs and the gate, from numbers that are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import PenchantError
from simulations.statistics import mean_interval
from simulations.studies.history.tables import summary, tables, with_gated, write_tables
from simulations.studies.rows import HEADING, RESULTS, append_row, read_run

SIZES = [5, 20]


def person(none: float, rag: float, both: float, *, passed: bool, private: float | None = None) -> dict[str, Any]:
    losses = {"none": none, "shared": none - 0.01}
    for size in SIZES:
        losses |= {f"rag@{size}": rag, f"personal@{size}": both + 0.3, f"rag+personal@{size}": both}
    losses |= {"stranger_memory@20": none, "stranger_adapter@20": both + 0.35}
    if private is not None:
        losses |= {"personal epsilon 8@20": private + 0.4, "rag+personal epsilon 8@20": private}
    gate = {"5": {"passed": False, "texts": 0}, "20": {"passed": passed, "texts": 5}}
    return {"losses": losses, "gate": gate}


def document(people: dict[str, Any]) -> dict[str, Any]:
    settings = {"sizes": SIZES, "epsilons": [8.0, 2.0], "split": {"source": "blogs"}}
    return {"settings": settings, "people": people}


def rows(out: Path, people: dict[str, Any]) -> None:
    run = document({}) | {"of": {"memory": "m", "private": "p"}, "order": list(PEOPLE)}
    (out / HEADING).write_text(json.dumps(run))
    for name, found in people.items():
        append_row(out, {"part": "memory", "person": name, "of": "m", **found})


PEOPLE = {
    "ann": person(4.0, 3.8, 3.7, passed=True, private=3.75),
    "ben": person(4.2, 4.1, 4.2, passed=False, private=4.3),
    "cleo": person(4.4, 4.0, 3.9, passed=True),
}


def test_the_gated_arm_is_the_adapter_where_it_lives_and_the_memory_alone_elsewhere() -> None:
    gated = with_gated(PEOPLE, SIZES)
    assert [losses["rag+gated@20"] for losses in gated.values()] == [3.7, 4.1, 3.9]
    assert [losses["rag+gated@5"] for losses in gated.values()] == [3.8, 4.1, 4.0]
    assert "rag+gated@20" not in PEOPLE["ann"]["losses"]  # what was measured stays as it was
    unasked = {"ann": PEOPLE["ann"] | {"gate": {}}}
    assert "rag+gated@20" not in with_gated(unasked, SIZES)["ann"]


def test_differences_are_paired_and_positive_where_the_second_is_better() -> None:
    numbers = summary(document(PEOPLE))
    found = numbers["sizes"]["20"]["differences"]
    mean, low, high = mean_interval([0.1, -0.1, 0.1])
    assert found["rag + personal against rag"] == pytest.approx({"mean": mean, "low": low, "high": high, "people": 3})
    assert found["the same, gated"]["mean"] == pytest.approx((0.1 + 0.0 + 0.1) / 3)
    assert found["own adapter against a stranger's"]["mean"] == pytest.approx(0.05)
    assert found["own memory against a stranger's"]["mean"] == pytest.approx((0.2 + 0.1 + 0.4) / 3)
    assert numbers["sizes"]["5"]["differences"]["own adapter against a stranger's"] is None  # nobody was asked


def test_gains_are_relative_to_the_model_alone() -> None:
    numbers = summary(document(PEOPLE))
    gain = numbers["sizes"]["5"]["arms"]["rag"]["gain"]
    assert gain["mean"] == pytest.approx((0.2 / 4.0 + 0.1 / 4.2 + 0.4 / 4.4) / 3)
    assert numbers["alone"]["none"]["loss"]["mean"] == pytest.approx(4.2)


def test_the_gate_is_counted_over_those_whom_it_was_asked_for() -> None:
    people = PEOPLE | {"dora": PEOPLE["ann"] | {"gate": {}}}
    gates = [numbers["gate"] for numbers in summary(document(people))["sizes"].values()]
    assert gates == [{"asked": 3, "passed": 0}, {"asked": 3, "passed": 2}]


def test_the_cost_of_privacy_is_paired_over_those_who_trained_privately() -> None:
    private = summary(document(PEOPLE))["private"]
    cost = private["8"]["cost of privacy with memory"]
    assert (cost["people"], cost["mean"]) == (2, pytest.approx((0.05 + 0.1) / 2))
    assert private["8"]["cost of privacy"]["mean"] == pytest.approx((0.15 + 0.2) / 2)
    assert private["2"]["personal"]["loss"] is None


def test_tables_and_picture_are_written_also_from_a_part_of_the_results(tmp_path: Path) -> None:
    rows(tmp_path, PEOPLE)
    text = write_tables(tmp_path)
    assert "| none | 4.200 | |" in text and "| adapters that the gate let live | 0 of 3 | 2 of 3 |" in text
    assert json.loads((tmp_path / "summary.json").read_text())["sizes"]["20"]["gate"]["passed"] == 2
    assert (tmp_path / "tables.md").read_text() == text
    assert (tmp_path / "history.png").read_bytes()[:4] == b"\x89PNG"
    only_memory = {
        name: {"losses": {arm: row["losses"][arm] for arm in ("none", "rag@5", "rag@20")}, "gate": {}}
        for name, row in PEOPLE.items()
    }
    numbers = summary(document(only_memory))
    lines = tables(document(only_memory), numbers).splitlines()
    assert "| rag + personal |  |  |" in lines and "| shared |  | |" in lines
    (tmp_path / RESULTS).unlink()
    rows(tmp_path, only_memory)
    write_tables(tmp_path)


def test_rows_of_other_runs_are_left_out_and_people_stand_in_the_order_of_the_seed(tmp_path: Path) -> None:
    rows(tmp_path, {"cleo": PEOPLE["cleo"], "ann": PEOPLE["ann"]})
    append_row(tmp_path, {"part": "private", "person": "ann", "of": "another", "losses": {"none": 0.0}})
    run = read_run(tmp_path)
    assert list(run["people"]) == ["ann", "cleo"] and run["people"]["ann"]["losses"] == PEOPLE["ann"]["losses"]
    with pytest.raises(PenchantError, match="holds no run"):
        read_run(tmp_path / "nothing")
