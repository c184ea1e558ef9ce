"""MovieLens small: films, ratings and tags from the caller's files, and pairs of films derived from ratings.

GroupLens's terms of use; it does not ship with the project. A film's features are made of its catalogue entry and the
number of its tags, never of ratings.
"""

from __future__ import annotations

import csv
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.errors import PenchantError

MOST_PAIRS: Final = 64  # of a user, in each part
COMMON_GENRE: Final = 0.01  # a genre of a smaller share of the films is no feature

Row = dict[str, str]
Rated = tuple[int, int, float]  # seconds, place of the film, rating


def read_movielens(folder: Path) -> tuple[list[Row], dict[str, list[Rated]], list[Row]]:
    """The films; each user's ratings of them; the tags."""
    films = list(_csv(folder / "movies.csv", ("movieId", "title", "genres")))
    places = {film["movieId"]: place for place, film in enumerate(films)}
    rated: dict[str, list[Rated]] = defaultdict(list)
    for row in _csv(folder / "ratings.csv", ("userId", "movieId", "rating", "timestamp")):
        if row["movieId"] in places:
            rated[row["userId"]].append((int(row["timestamp"]), places[row["movieId"]], float(row["rating"])))
    return films, rated, list(_csv(folder / "tags.csv", ("movieId", "tag")))


def rating_pairs(rated: Sequence[Rated], draw: random.Random) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Up to `MOST_PAIRS` pairs of films with different ratings, in the order in which the later one was rated."""
    places = draw.sample(range(len(rated)), len(rated))
    chosen: list[tuple[int, int]] = []
    while len(places) > 1 and len(chosen) < MOST_PAIRS:
        place = places.pop()
        other = next((other for other in places if rated[other][2] != rated[place][2]), None)
        if other is not None:
            places.remove(other)
            chosen.append((max(place, other), min(place, other)))
    pairs, outcomes = [], []
    for both in sorted(chosen):
        first, second = both if draw.random() < 0.5 else both[::-1]
        pairs.append((rated[first][1], rated[second][1]))
        outcomes.append(float(rated[first][2] > rated[second][2]))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(outcomes)


def film_features(films: Sequence[Row], tags: Sequence[Row]) -> NDArray[np.float64]:
    """(films, n): genres, year, form of the title, place in the catalogue (early entries are well-known films) and
    number of tags, standardised, mean |row|^2 = 1. Nothing is made from ratings. Single tags are no features: so few
    films carry one that, standardised, it would drown all else.
    """
    tagged = Counter(row["movieId"] for row in tags)
    genres = [film["genres"].split("|") for film in films]
    carried = Counter(genre for own in genres for genre in own)
    years = np.array([_year(film["title"]) for film in films])
    years = np.where(years > 0, years, np.median(years[years > 0]) if (years > 0).any() else 0.0)
    centred = (years - years.mean()) / 10.0
    rows = {
        "year": centred,
        "year squared": centred**2,
        "number of genres": [len(own) for own in genres],
        "sequel": [bool(re.search(r"\b(?:II|III|IV|[2-9]|Part)\b", film["title"])) for film in films],
        "second title": [film["title"].count("(") > 1 for film in films],  # mostly: not English
        "catalogue": [np.log(int(film["movieId"])) for film in films],
        "tags": [np.log1p(tagged[film["movieId"]]) for film in films],
    }
    rows |= {
        genre: [genre in own for own in genres]
        for genre in sorted(carried)
        if carried[genre] >= COMMON_GENRE * len(films)
    }
    columns = [np.asarray(row, dtype=float) for row in rows.values()]
    features = np.stack([column for column in columns if column.std() > 0], axis=1)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    scaled: NDArray[np.float64] = features / np.sqrt(np.mean(np.sum(features**2, axis=1)))
    return scaled


def _year(title: str) -> float:
    found = re.search(r"\((\d{4})\)\s*$", title)
    return float(found.group(1)) if found else 0.0


def _csv(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a CSV file that must have `columns`."""
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            if not set(columns) <= set(reader.fieldnames or ()):
                raise PenchantError(f"{path.name} lacks a column of {', '.join(columns)}: fetch MovieLens again")
            yield from reader
    except OSError:
        raise PenchantError(f"{path.parent.name}/{path.name} is not in the data folder: set PENCHANT_DATA") from None
