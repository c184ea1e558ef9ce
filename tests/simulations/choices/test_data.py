"""The loaders of choices: splits, outcomes, newcomers, and what a feature may know."""

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.errors import PenchantError
from simulations.choices.data import (
    ChoiceSet,
    judges,
    load_movielens,
    load_taste,
    load_ukpconvarg,
    load_village_choices,
)
from simulations.choices.tastes import TasteRecipe
from simulations.datasets.movielens import film_features

DATA = os.environ.get("PENCHANT_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="PENCHANT_DATA names no folder with ukpconvarg/ and movielens/")


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def write_arguments(folder: Path, judgements: Sequence[dict[str, Any]]) -> Path:
    write_rows(folder / "ukpconvarg" / "arguments.jsonl.gz", [{"id": n, "text": f"argument {n}"} for n in range(3, 9)])
    write_rows(folder / "ukpconvarg" / "judgements.jsonl.gz", judgements)
    return folder


def judgement(user: str, minute: int, choice: str = "a1", first: int = 3, second: int = 5) -> dict[str, Any]:
    time = f"2016-01-01 10:{minute:02d}:00.0 UTC"
    return {"user": user, "title": "Debate", "a1": first, "a2": second, "choice": choice, "time": time}


def test_the_latest_quarter_is_held_out_and_small_workers_only_train(tmp_path: Path) -> None:
    busy = [judgement("busy", minute, ("a1", "a2", "equal")[minute % 3]) for minute in range(40)]
    write_arguments(tmp_path, [judgement("tiny", 1), *[judgement("small", 1, "equal", 5, 7)] * 8, *busy[::-1]])
    people = {person.user: person for person in load_ukpconvarg(tmp_path).people}
    assert len(people["busy"].pairs) == 30 and len(people["busy"].held_out_pairs) == 10
    expected = [(1.0, 0.0, 0.5)[minute % 3] for minute in range(40)]
    assert [*people["busy"].outcomes, *people["busy"].held_out_outcomes] == expected
    small = people["small"]
    assert small.role == "fleet" and len(small.pairs) == 8 and len(small.held_out_pairs) == 0
    assert set(small.outcomes) == {0.5} and "tiny" not in people


def test_items_are_the_judged_arguments_under_their_debate(tmp_path: Path) -> None:
    loaded = load_ukpconvarg(write_arguments(tmp_path, [judgement("a", 1, first=7, second=3)] * 8))
    assert loaded.items == (("Debate", "argument 3"), ("Debate", "argument 7"))
    assert loaded.people[0].pairs.tolist() == [[1, 0]] * 8


def test_newcomers_are_a_fifth_of_the_reported_and_come_last(tmp_path: Path) -> None:
    rows = [judgement(f"w{worker}", minute) for worker in range(10) for minute in range(40)]
    people = load_ukpconvarg(write_arguments(tmp_path, [*rows, *[judgement("small", 0)] * 8])).people
    assert [person.role for person in people] == ["fleet"] * 9 + ["newcomer"] * 2


@pytest.mark.parametrize("wrong", [{"choice": "both"}, {"a1": 99}])
def test_a_malformed_judgement_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(PenchantError, match="fetch ukpconvarg again"):
        load_ukpconvarg(write_arguments(tmp_path, [judgement("a", 1) | wrong]))


def write_films(folder: Path) -> Path:
    films = folder / "movielens"
    films.mkdir()
    rows = [f"{n},Film {n} ({1980 + n}),{'Drama' if n % 2 else 'Comedy|War'}" for n in range(1, 41)]
    (films / "movies.csv").write_text("movieId,title,genres\n" + "\n".join(rows) + "\n")
    ratings = [f"{user},{n},{1 + (n * user) % 5},{1000 + n}" for user in range(1, 15) if user % 5 for n in range(1, 41)]
    (films / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(ratings) + "\n")
    tags = [f"1,{n},{'Funny' if n < 5 else 'rare'},1" for n in range(1, 7)]
    (films / "tags.csv").write_text("userId,movieId,tag,timestamp\n" + "\n".join(tags) + "\n")
    return folder


def test_films_of_the_latest_quarter_are_in_held_out_pairs_only(tmp_path: Path) -> None:
    loaded = load_movielens(write_films(tmp_path))
    assert [person.role for person in loaded.people].count("newcomer") == 2
    for person in loaded.people:
        user = int(person.user.removeprefix("film-"))
        assert person.pairs.max() < 30 <= person.held_out_pairs.min()
        assert len(set(person.pairs.ravel().tolist())) == 2 * len(person.pairs) <= 30
        assert 1 <= len(person.held_out_pairs) <= 5
        for pairs, outcomes in (
            (person.pairs, person.outcomes),
            (person.held_out_pairs, person.held_out_outcomes),
        ):
            rated = 1 + ((pairs + 1) * user) % 5  # film n stands at place n - 1
            assert ((rated[:, 0] > rated[:, 1]) == (outcomes == 1.0)).all()
            assert (rated[:, 0] != rated[:, 1]).all()


def test_film_features_are_standardised_and_know_genre_year_and_tags(tmp_path: Path) -> None:
    features = load_movielens(write_films(tmp_path)).item_features
    assert features is not None and np.isfinite(features).all()
    np.testing.assert_allclose(features.mean(axis=0), 0.0, atol=1e-12)
    assert np.mean(np.sum(features**2, axis=1)) == pytest.approx(1.0)
    films = [{"movieId": str(n), "title": f"F ({1990 + n})", "genres": "Drama"} for n in range(1, 7)]
    plain = film_features(films, [])
    assert film_features(films, [{"movieId": "1", "tag": "x"}]).shape[1] == plain.shape[1] + 1
    other = [*films[:3], *({**film, "genres": "War"} for film in films[3:])]
    assert film_features(other, []).shape[1] == plain.shape[1] + 2


def test_the_village_hides_the_chosen_answer(tmp_path: Path) -> None:
    loaded = load_village_choices()
    outcomes = np.concatenate([person.outcomes for person in loaded.people])
    assert outcomes.mean() == pytest.approx(0.5)
    assert (
        len(loaded.items)
        == len(loaded.groups)
        == 2 * sum(len(person.pairs) + len(person.held_out_pairs) for person in loaded.people)
    )
    from simulations.datasets.village import load_village

    chosen = {row.chosen for person in load_village() for row in person.train_choices}
    for person in loaded.people:
        for (first, second), outcome in zip(person.pairs, person.outcomes, strict=True):
            assert loaded.items[first if outcome == 1.0 else second][1] in chosen
            assert loaded.items[first][0] == loaded.items[second][0]


def test_judges_see_differences_of_features() -> None:
    loaded = load_village_choices()
    phi = np.random.default_rng(0).standard_normal((len(loaded.items), 3))
    judge, person = judges(loaded, phi)[0], loaded.people[0]
    np.testing.assert_array_equal(judge.choices.differences, phi[person.pairs[:, 0]] - phi[person.pairs[:, 1]])
    assert (judge.user, judge.role, len(judge.held_out)) == (person.user, person.role, len(person.held_out_pairs))
    with pytest.raises(PenchantError, match="rows of features"):
        judges(loaded, phi[:-1])


@needs_data
def test_the_real_sets_have_the_stated_people() -> None:
    folder = Path(str(DATA))

    def reported(loaded: ChoiceSet, role: str) -> int:
        return sum(person.role == role and len(person.held_out_pairs) > 0 for person in loaded.people)

    arguments = load_ukpconvarg(folder)
    assert (len(arguments.items), reported(arguments, "fleet"), reported(arguments, "newcomer")) == (1038, 140, 35)
    films = load_movielens(folder)
    assert reported(films, "newcomer") == 89 and len(films.people) == 447
    taste = load_taste(folder, TasteRecipe(fleet=10, newcomers=3))
    assert [person.role for person in taste.people] == ["fleet"] * 10 + ["newcomer"] * 3


def test_absent_files_say_what_to_do(tmp_path: Path) -> None:
    for load in (load_ukpconvarg, load_movielens):
        with pytest.raises(PenchantError, match="PENCHANT_DATA"):
            load(tmp_path)
