"""The sets that the project reads already, in the common form: on small files, and whole where the data is there."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import PenchantError
from simulations.bench.preferences import TUNING_TOPICS
from simulations.benchmarks.own_sets import RATINGS, TUNING, as_rating, movielens, prefeval, ukpconvarg
from simulations.benchmarks.sets import SETS, load
from tests.simulations.benchmarks.help import write_json


def write_gz(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_prefeval_people_hold_one_preference_of_each_topic_and_are_asked_about_topics_of_their_group(
    tmp_path: Path,
) -> None:
    topics = [f"topic{number}" for number in range(TUNING_TOPICS + 2)]
    for topic in topics:
        rows = [
            {
                "preference": f"I like {topic} {row}.",
                "question": f"Which {topic} {row}?",
                "classification_task_options": [f"{topic} {row} {letter}" for letter in "abcd"],
            }
            for row in range(TUNING + 2)
        ]
        write_json(tmp_path / "prefeval" / "mcq_options" / f"{topic}.json", rows)
    read = prefeval(tmp_path, 2, 0)
    task = read.tasks[0]
    assert read.serving == "advice" and [len(one.history) for one in read.tasks] == [len(topics)] * 2
    assert [query.input.split()[1] for query in task.queries] == topics[TUNING_TOPICS:]
    assert [query.input.split()[1] for query in read.tuning[0].queries] == topics[:TUNING_TOPICS]
    for query in task.queries:
        (place,) = query.evidence
        assert query.gold.endswith(" a") and task.history[place].text[7:-1] == query.gold[:-2]
    assert len({query.options.index(query.gold) for one in read.tasks for query in one.queries}) > 1
    with pytest.raises(PenchantError, match="ask for fewer"):
        prefeval(tmp_path, 3, 0)


def test_ukpconvarg_histories_hold_what_convinced_and_queries_the_last_pairs(tmp_path: Path) -> None:
    judgements = [
        {
            "user": f"w{judge}",
            "title": "Kilns",
            "a1": place % 50,
            "a2": 50 + place % 50,
            "choice": ("a1", "a2", "equal")[place % 3],
            "time": f"2016-01-{place + 1:02d}" if place < 31 else f"2016-02-{place - 30:02d}",
        }
        for judge in range(TUNING + 2)
        for place in range(48)
    ]
    write_gz(tmp_path / "ukpconvarg" / "judgements.jsonl.gz", judgements)
    texts = [{"id": number, "text": f"argument {number} " + "word " * 80} for number in range(100)]
    write_gz(tmp_path / "ukpconvarg" / "arguments.jsonl.gz", texts)
    read = ukpconvarg(tmp_path, 2, 0)
    task = read.tasks[0]
    assert read.serving == "writing" and len(task.history) == 24  # two of three of the first 36
    assert [row.text.split()[1] for row in task.history[:3]] == ["0", "51", "3"]
    assert all(len(row.text.split()) == 60 for row in task.history)
    assert task.queries[0].gold.split()[1] == "36" and task.queries[1].gold.split()[1] == "87"
    assert task.queries[0].options[1].split()[1] == "86" and len(task.queries) == 8


def test_movielens_ratings_become_words(tmp_path: Path) -> None:
    folder = tmp_path / "movielens"
    folder.mkdir()
    films = "".join(f"{number},Film {number} (1990),Comedy|Drama\n" for number in range(1, 81))
    (folder / "movies.csv").write_text("movieId,title,genres\n" + films)
    ratings = "".join(
        f"{user},{film},{0.5 + film % 10 / 2},{1000 + film}\n" for user in range(TUNING + 2) for film in range(1, 81)
    )
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + ratings)
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n")
    read = movielens(tmp_path, 2, 0)
    task = read.tasks[0]
    assert movielens(tmp_path, 2, 0) == read != movielens(tmp_path, 2, 1)
    assert read.labels == RATINGS and read.measure == "mae" and (len(task.history), len(task.queries)) == (60, 15)
    assert task.queries[-1].input == "What did you think of the film Film 80 (1990) (comedy, drama)?"
    assert task.queries[-1].gold == as_rating(0.5) == RATINGS[0] and as_rating(3.5) == as_rating(4.0) == RATINGS[3]
    with pytest.raises(PenchantError, match=r"between 0\.5 and 5"):
        as_rating(6)


def test_an_unknown_set_is_refused_with_the_names_of_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="no benchmark 'news': take one of blogs"):
        load("news", tmp_path, 2, 0)
    for name in SETS:
        with pytest.raises(PenchantError):
            load(name, tmp_path, 2, 0)


@pytest.mark.parametrize("name", ["blogs", "novels", "prefeval", "ukpconvarg", "movielens", "locomo"])
def test_the_published_files_give_people_with_queries(name: str) -> None:
    folder = Path(os.environ.get("PENCHANT_DATA", "nowhere"))
    if not (folder / name).is_dir():
        pytest.skip(f"PENCHANT_DATA holds no {name}")
    read = load(name, folder, 8, 0)
    assert len(read.tasks) == 8 and len(read.tuning) >= 4
    for task in read.tasks:  # nothing that is asked for is known before, of what is written freely
        if name in ("blogs", "novels"):
            assert not {query.gold for query in task.queries} & {row.text for row in task.history}
