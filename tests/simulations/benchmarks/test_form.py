"""The common form: histories in order, queries that can be scored, errors that name a place and no text."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.errors import PenchantError
from simulations.benchmarks.form import (
    Benchmark,
    FileRow,
    Query,
    Task,
    cut,
    history_of,
    read_json,
    read_json_lines,
    shortened,
)
from simulations.people import Message

ONE = Message("2020-01-01", "Ask", "Answer")


class _Row(FileRow):
    name: str
    count: int


def task(person: str) -> Task:
    return Task(person, (ONE,), (Query("Ask", "gold"),))


def test_dated_rows_are_ordered_and_undated_ones_stay_in_place() -> None:
    dated = [("2021-05-02", "b", "two"), ("2020-01-01", "a", "one\n line"), ("2022-01-01", "c", "three")]
    assert [row.text for row in history_of(dated)] == ["one line", "two", "three"]
    assert [row.text for row in history_of(dated, 2)] == ["two", "three"]
    for day in ("", "2021", "20210502", "2021-13-02"):  # one row without a day: all are numbered
        mixed = history_of([("2021-05-02", "b", "two"), (day, "a", "one")])
        assert [row.text for row in mixed] == ["two", "one"] and [row.date[:7] for row in mixed] == ["2000-01"] * 2


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Query("a", "gold", ("one", "two")), "one of its two or more options"),
        (lambda: Query("a", "one", ("one",)), "one of its two or more options"),
        (lambda: Query(" ", "gold"), "an input and a right answer"),
        (lambda: Task("ann", (), (Query("a", "b"),)), "ann needs a history"),
        (lambda: Task("ann", (ONE, Message("2019-01-01", "", "b")), (Query("a", "b"),)), "order of its dates"),
        (lambda: Task("ann", (ONE,), (Query("a", "b", evidence=frozenset({1})),)), "outside the history"),
        (lambda: Benchmark("set", "writing", "nats", (task("ann"),), (task("ann"),)), "both reported and tuned on"),
        (lambda: cut("set", [task("ann"), task("ben")], 2, 1), "2 people have a history and queries, not 3"),
    ],
)
def test_what_cannot_be_scored_is_refused(make: object, why: str) -> None:
    with pytest.raises(PenchantError, match=why):
        make()  # type: ignore[operator]


def test_the_first_people_are_for_tuning_and_the_next_are_reported() -> None:
    reported, tuning = cut("set", [task(name) for name in "abcd"], 2, 1)
    assert [one.person for one in tuning] == ["a"] and [one.person for one in reported] == ["b", "c"]


def test_texts_are_cut_to_words_on_one_line() -> None:
    assert shortened("one two\nthree  four", 3) == "one two three"


def test_a_file_of_another_form_is_named_by_place_and_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    with pytest.raises(PenchantError, match="pass the folder that holds rows"):
        read_json(file, list[_Row], "Rows")
    file.write_text('[{"name": "x", "count": 1}, {"name": "secret", "count": "secret"}]')
    with pytest.raises(PenchantError, match=r"rows\.json is not of Rows's form: see 1\.count") as refused:
        read_json(file, list[_Row], "Rows")
    assert "secret" not in str(refused.value)
    file.write_text("{")
    with pytest.raises(PenchantError, match="see the file"):
        read_json(file, list[_Row], "Rows")


def test_a_line_of_another_form_is_named_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with pytest.raises(PenchantError, match="pass the folder"):
        read_json_lines(file, _Row, "Rows")
    file.write_text('{"name": "x", "count": 1}\n\n{"name": "y", "count": 2, "more": 3}\n')
    assert [row.name for row in read_json_lines(file, _Row, "Rows")] == ["x", "y"]
    file.write_text('{"name": "x", "count": 1}\n{"name": "secret"}\n')
    with pytest.raises(PenchantError, match=r"line 2, count") as refused:
        read_json_lines(file, _Row, "Rows")
    assert "secret" not in str(refused.value)
