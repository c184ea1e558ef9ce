"""Loaders of real writing: rules on small made-up files, and on the real sets where they are at hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import PenchantError
from simulations.datasets.writing import Selection, data_folder, load_blogs, load_novels
from simulations.experiments.experiment_file import read_people
from simulations.people import Person

SMALL = Selection(
    train_messages=3,
    test_messages=2,
    minimum_train_messages=2,
    minimum_test_messages=1,
    minimum_words=6,
    cue_words=4,
    max_words=5,
)


def post(user: str, number: int, words: int = 12) -> str:
    return " ".join(f"{user}-{number}-{word}" for word in range(words))


def blog(user: str) -> dict[str, Any]:
    return {
        "user": user,
        "train": [[f"2004-01-{day:02d}", post(user, day)] for day in range(1, 6)],
        "val": [["2004-01-06", post(user, 6)]],
        "test": [[f"2004-01-{day:02d}", post(user, day)] for day in range(7, 10)],
    }


def long_blog(user: str) -> dict[str, Any]:
    """A blog with just enough posts for the default selection."""
    rows = [[f"2004-01-{day:02d}", post(user, day, words=40)] for day in range(1, 17)]
    return {"user": user, "train": rows[:12], "val": [], "test": rows[12:]}


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)


def write_blogs(folder: Path, fleet: list[dict[str, Any]], newcomers: list[dict[str, Any]]) -> None:
    write(folder / "blogs" / "fleet.jsonl.gz", fleet)
    write(folder / "blogs" / "newcomers.jsonl.gz", newcomers)


def test_cue_and_text_are_consecutive_words_of_the_most_recent_posts(tmp_path: Path) -> None:
    write_blogs(tmp_path, [blog("b0")], [])
    (person,) = load_blogs(tmp_path, people=1, selection=SMALL)
    assert [row.date for row in person.train_messages] == ["2004-01-03", "2004-01-04", "2004-01-05"]
    assert [row.date for row in person.test_messages] == ["2004-01-07", "2004-01-08"]
    words = post("b0", 5).split()
    assert person.train_messages[-1].cue == "Continue my post: " + " ".join(words[:4])
    assert person.train_messages[-1].text == " ".join(words[4:9])
    assert (person.id, person.role, person.facts, person.train_choices) == ("blog-fleet-b0", "fleet", (), ())


def test_short_posts_are_skipped_and_so_are_people_with_too_few(tmp_path: Path) -> None:
    short, long = blog("b0"), blog("b1")
    short["train"] = [[date, post("b0", index, 5)] for index, (date, _) in enumerate(short["train"])]
    long["train"][4][1] = post("b1", 5, 5)
    write_blogs(tmp_path, [short, long], [])
    (person,) = load_blogs(tmp_path, people=1, selection=SMALL)
    assert person.id == "blog-fleet-b1"
    assert [row.date[-2:] for row in person.train_messages] == ["02", "03", "04"]
    with pytest.raises(PenchantError, match="only 1 of 2 people"):
        load_blogs(tmp_path, people=2, selection=SMALL)


def test_reposts_and_posts_of_the_first_held_out_day_are_dropped(tmp_path: Path) -> None:
    record = blog("b0")
    record["test"] = [["2004-01-05", record["train"][0][1]], ["2004-01-05", post("b0", 20)]]
    write_blogs(tmp_path, [record], [])
    (person,) = load_blogs(tmp_path, people=1, selection=SMALL)
    assert [row.text for row in person.test_messages] == [" ".join(post("b0", 20).split()[4:9])]
    assert [row.date[-2:] for row in person.train_messages] == ["02", "03", "04"]


def test_one_writer_is_never_two_people(tmp_path: Path) -> None:
    twin = {**blog("b0"), "user": "b7"}
    write_blogs(tmp_path, [blog("b0"), twin], [twin, blog("b8")])
    with pytest.raises(PenchantError, match="only 1 of 2"):
        load_blogs(tmp_path, people=2, selection=SMALL)
    chosen = load_blogs(tmp_path, people=1, newcomers=1, selection=SMALL)
    assert [person.id for person in chosen if person.role == "newcomer"] == ["blog-newcomer-b8"]


def test_newcomers_are_by_authors_whom_the_fleet_does_not_know(tmp_path: Path) -> None:
    novels = [
        {
            "user": f"{author}_{title}",
            "author": author,
            "year": 1860,
            "train": [post(author + title, number) for number in range(6)],
            "test": [post(author + title, number) for number in range(6, 9)],
        }
        for author in ("Ash", "Birch", "Cedar")
        for title in ("One", "Two")
    ]
    write(tmp_path / "novels" / "novels.jsonl.gz", novels)
    for seed in range(5):
        people = load_novels(tmp_path, people=4, newcomers=1, seed=seed, selection=SMALL)
        authors = {person.role: set[str]() for person in people}
        for person in people:
            authors[person.role].add(person.id.removeprefix("novel-").split("_")[0])
        assert len(authors["fleet"]) == 2
        assert not authors["fleet"] & authors["newcomer"]
    assert people[0].train_messages[0].cue.startswith("Continue the passage: ")
    assert [row.date for row in people[0].train_messages] == ["1860-01-04", "1860-01-05", "1860-01-06"]


def test_bad_files_get_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match=r"blogs/fleet\.jsonl\.gz is not in the data folder"):
        load_blogs(tmp_path, people=1)
    (tmp_path / "blogs").mkdir()
    (tmp_path / "blogs" / "fleet.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(PenchantError, match="damaged"):
        load_blogs(tmp_path, people=1)
    write_blogs(tmp_path, [{**blog("b0"), "train": ["a private diary"]}], [])
    with pytest.raises(PenchantError, match="'train'") as caught:
        load_blogs(tmp_path, people=1)
    assert "diary" not in str(caught.value)


def test_where_the_data_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENCHANT_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.setenv("PENCHANT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(PenchantError, match=r"names no folder.*export PENCHANT_DATA="):
        data_folder()
    monkeypatch.delenv("PENCHANT_DATA")
    with pytest.raises(PenchantError, match="is not set; set it to a folder with blogs/ and novels/"):
        data_folder()


def test_an_experiment_file_finds_both_kinds_of_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENCHANT_DATA", str(tmp_path))
    write_blogs(tmp_path, [long_blog("b0")], [long_blog("b1")])
    people = read_people({"source": "blogs", "fleet": 1, "newcomers": 1})
    assert [person.role for person in people] == ["fleet", "newcomer"]
    with pytest.raises(PenchantError, match=r"novels/novels\.jsonl\.gz is not in the data folder"):
        read_people({"source": "novels", "fleet": 1})


# The real sets


def real_data(kind: str) -> Path:
    try:
        folder = data_folder()
    except PenchantError as error:
        folder = Path(__file__).resolve().parents[4] / "shared" / "data"  # beside the checkout
        if not folder.is_dir():
            pytest.skip(str(error))
    if not (folder / kind).is_dir():
        pytest.skip(f"the data folder has no {kind}/; set PENCHANT_DATA to one that has")
    return folder


def check_people(people: list[Person], start: str) -> None:
    assert len({person.id for person in people}) == len(people)
    owner: dict[str, str] = {}
    for person in people:
        assert max(row.date for row in person.train_messages) < min(row.date for row in person.test_messages)
        assert 12 <= len(person.train_messages) <= 40
        assert 4 <= len(person.test_messages) <= 12
        assert not {row.text for row in person.train_messages} & {row.text for row in person.test_messages}
        for row in person.train_messages + person.test_messages:
            assert row.cue.startswith(start)
            assert len(row.cue.removeprefix(start).split()) == 16
            assert 14 <= len(row.text.split()) <= 90
            assert owner.setdefault(row.cue + row.text, person.id) == person.id


def test_a_hundred_real_bloggers() -> None:
    folder = real_data("blogs")
    people = load_blogs(folder, people=100, newcomers=20)
    assert [person.role for person in people] == ["fleet"] * 100 + ["newcomer"] * 20
    check_people(people, "Continue my post: ")
    assert people == load_blogs(folder, people=100, newcomers=20)
    assert people[:40] == load_blogs(folder, people=40)
    assert people[:40] != load_blogs(folder, people=40, seed=1)


def test_real_novels() -> None:
    folder = real_data("novels")
    people = load_novels(folder, people=50, newcomers=6)
    assert [person.role for person in people] == ["fleet"] * 50 + ["newcomer"] * 6
    check_people(people, "Continue the passage: ")
    assert people == load_novels(folder, people=50, newcomers=6)
