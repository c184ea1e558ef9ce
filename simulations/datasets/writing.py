"""Real people's writing as `Person`s: the Blog Authorship Corpus and English novels, from the caller's
files.

Neither ships with the project. Blogs (Schler, Koppel, Argamon and Pennebaker 2006; prepared as JSON lines
with a split in time) are for non-commercial research only; novels up to 1925 are in the public domain, a
novel standing for a person with a strong style. Each post or passage becomes a `Message`: the cue quotes
its first words, the text is what follows.

Rules that keep a result honest:
- training rows come from the file's train part, held-out rows from its test part; training rows written on
  or after the first held-out day are dropped, and a held-out text that also stands in the train or val part
  is dropped;
- the corpus holds some blogs twice under different names, two of them as fleet user and as newcomer: a
  person who shares a text with one already taken is skipped;
- newcomers among novels are by authors of whom the fleet has no novel.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date as calendar_date
from datetime import timedelta
from pathlib import Path
from typing import Any

from protocol.errors import PenchantError
from simulations.people import Message, Person, Role

DATA_VARIABLE = "PENCHANT_DATA"
Dated = tuple[str, str]  # ISO date, text


@dataclass(frozen=True)
class Selection:
    """How much of each person is taken, in words and rows.

    The most recent `train_messages` of the train part and the earliest `test_messages` of the test part are
    kept; a person with fewer than the minimum of either is skipped and the next one taken.
    """

    train_messages: int = 40
    test_messages: int = 12
    minimum_train_messages: int = 12
    minimum_test_messages: int = 4
    minimum_words: int = 30
    cue_words: int = 16
    max_words: int = 90

    def __post_init__(self) -> None:
        if min(self.train_messages, self.test_messages, self.cue_words, self.max_words) < 1:
            raise PenchantError("a selection takes at least one message of each part, cue word and text word")
        if min(self.minimum_train_messages, self.minimum_test_messages) < 1:
            raise PenchantError("a person needs at least one message of each part")
        if self.minimum_words <= self.cue_words:
            raise PenchantError("minimum_words must exceed cue_words, or a message could have no text")


def data_folder() -> Path:
    """The folder that PENCHANT_DATA names: a folder with blogs/ and novels/. Raises a `PenchantError` that says how
    to set it.
    """
    named = os.environ.get(DATA_VARIABLE)
    if not named or not Path(named).is_dir():
        found = "names no folder" if named else "is not set"
        raise PenchantError(
            f"no data: {DATA_VARIABLE} {found}; set it to a folder with blogs/ and novels/, "
            f"e.g. export {DATA_VARIABLE}=$HOME/data"
        )
    return Path(named)


def load_blogs(
    folder: Path,
    *,
    people: int,
    newcomers: int = 0,
    seed: int = 0,
    selection: Selection | None = None,
) -> list[Person]:
    """`people` bloggers for the fleet and `newcomers` whom no training may touch, chosen by `seed`.

    `folder` holds blogs/fleet.jsonl.gz and blogs/newcomers.jsonl.gz; the fleet comes first in the result, and
    asking for a larger fleet with the same seed only adds to it. Raises a `PenchantError` if the files are
    absent or malformed, or if too few people have enough text.
    """
    selection = selection or Selection()
    taken: set[str] = set()
    chosen: list[Person] = []
    wanted: tuple[tuple[Role, str, int], ...] = (
        ("fleet", "fleet.jsonl.gz", people),
        ("newcomer", "newcomers.jsonl.gz", newcomers),
    )
    for role, file_name, count in wanted:
        if count == 0:
            continue
        records = list(read_records(folder / "blogs" / file_name))
        random.Random(f"blogs {role} {seed}").shuffle(records)
        chosen += take((blogger(record, role, selection) for record in records), count, taken, f"blogs ({role})")
    return chosen


def load_novels(
    folder: Path,
    *,
    people: int,
    newcomers: int = 0,
    seed: int = 0,
    selection: Selection | None = None,
) -> list[Person]:
    """`people` novels for the fleet and `newcomers` by other authors, chosen by `seed`, fleet first.

    `folder` holds novels/novels.jsonl.gz. A passage has no date; the n-th of a novel gets the n-th day of the
    year it was published in, so that a date orders passages within a novel and means nothing else.
    """
    selection = selection or Selection()
    records = list(read_records(folder / "novels" / "novels.jsonl.gz"))
    random.Random(f"novels {seed}").shuffle(records)
    taken: set[str] = set()
    new = take((novel(record, "newcomer", selection) for record in records), newcomers, taken, "novels (newcomer)")
    new_ids = {person.id for person in new}
    new_authors = {field_of(record, "author", str) for record in records if person_id("novel", record) in new_ids}
    rest = [record for record in records if field_of(record, "author", str) not in new_authors]
    fleet = take((novel(record, "fleet", selection) for record in rest), people, taken, "novels (fleet)")
    return fleet + new


def blogger(record: dict[str, Any], role: Role, selection: Selection) -> tuple[Person | None, set[str]]:
    """The person of one record, None if they have too little text; and all their longer texts."""
    parts = {part: dated_texts(record, part) for part in ("train", "val", "test")}
    person = make_person(
        person_id(f"blog-{role}", record),
        f"Blogger {field_of(record, 'user', str)}",
        "a real blogger of 2004 or before",
        role,
        "Continue my post: ",
        parts["train"],
        parts["test"],
        seen_before_test={text for part in ("train", "val") for _, text in parts[part]},
        selection=selection,
    )
    texts = {text for rows in parts.values() for _, text in rows}
    return person, {text for text in texts if len(text.split()) >= selection.minimum_words}


def novel(record: dict[str, Any], role: Role, selection: Selection) -> tuple[Person | None, set[str]]:
    """The person of one novel, None if it has too little text; and all its longer passages."""
    author, year = field_of(record, "author", str), field_of(record, "year", int)
    title = field_of(record, "user", str).removeprefix(f"{author}_")
    train, test = plain_texts(record, "train"), plain_texts(record, "test")
    first_day = calendar_date(year, 1, 1)
    days = [(first_day + timedelta(days=index)).isoformat() for index in range(len(train) + len(test))]
    person = make_person(
        person_id("novel", record),
        f"{title} ({author})",
        f"a novel of {year} by {author}",
        role,
        "Continue the passage: ",
        list(zip(days, train, strict=False)),
        list(zip(days[len(train) :], test, strict=True)),
        seen_before_test=set(train),
        selection=selection,
    )
    return person, {text for text in [*train, *test] if len(text.split()) >= selection.minimum_words}


def make_person(
    identity: str,
    name: str,
    about: str,
    role: Role,
    cue_start: str,
    train: Sequence[Dated],
    test: Sequence[Dated],
    *,
    seen_before_test: set[str],
    selection: Selection,
) -> Person | None:
    """A person from dated texts, or None if either part is too small after the rules of this module."""
    held_out = messages([row for row in test if row[1] not in seen_before_test], cue_start, selection)
    held_out = held_out[: selection.test_messages]
    if len(held_out) < selection.minimum_test_messages:
        return None
    known = messages([row for row in train if row[0] < held_out[0].date], cue_start, selection)
    known = known[-selection.train_messages :]
    if len(known) < selection.minimum_train_messages:
        return None
    return Person(
        id=identity,
        name=name,
        about=about,
        role=role,
        train_messages=known,
        test_messages=held_out,
        facts=(),
        train_choices=(),
        test_choices=(),
    )


def messages(rows: Sequence[Dated], cue_start: str, selection: Selection) -> tuple[Message, ...]:
    """The long enough rows in date order, each text once: first words as the cue, the next as the text."""
    made: dict[str, Message] = {}
    for date, text in sorted(rows, key=lambda row: row[0]):
        words = text.split()
        if len(words) < selection.minimum_words or text in made:
            continue
        cue = " ".join(words[: selection.cue_words])
        rest = words[selection.cue_words : selection.cue_words + selection.max_words]
        made[text] = Message(date=date, cue=cue_start + cue, text=" ".join(rest))
    return tuple(made.values())


def take(
    candidates: Iterator[tuple[Person | None, set[str]]], count: int, taken: set[str], source: str
) -> list[Person]:
    """The first `count` people with enough text, none of it in `taken`, which grows by theirs."""
    if count < 0:
        raise PenchantError("a number of people cannot be negative")
    chosen: list[Person] = []
    while len(chosen) < count:
        person, texts = next(candidates, (None, None))
        if texts is None:
            raise PenchantError(
                f"{source}: only {len(chosen)} of {count} people have enough text of their own; "
                "ask for fewer, or for fewer messages of each"
            )
        if person is None or texts & taken:
            continue
        chosen.append(person)
        taken |= texts
    return chosen


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a gzipped JSON-lines file."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    raise PenchantError(f"{path.name}: line {number} is not JSON") from None
                if not isinstance(record, dict):
                    raise PenchantError(f"{path.name}: line {number} is not a JSON object")
                yield record
    except FileNotFoundError:
        raise PenchantError(
            f"{path.parent.name}/{path.name} is not in the data folder; "
            f"set {DATA_VARIABLE} to the folder that holds {path.parent.name}/"
        ) from None
    except (OSError, EOFError, UnicodeDecodeError):
        raise PenchantError(f"{path.parent.name}/{path.name} is damaged or not a gzipped text file") from None


def field_of(record: dict[str, Any], field: str, kind: type) -> Any:
    """`record[field]`, checked to be of its kind."""
    value = record.get(field)
    if not isinstance(value, kind):
        raise PenchantError(f"a record's field '{field}' is missing or not of type {kind.__name__}")
    return value


def person_id(prefix: str, record: dict[str, Any]) -> str:
    """An id that is unique over all sets: the corpus counts fleet and newcomers from b0000 alike."""
    return f"{prefix}-{field_of(record, 'user', str)}"


def plain_texts(record: dict[str, Any], part: str) -> list[str]:
    """The texts of one part, white space collapsed."""
    rows = field_of(record, part, list)
    if not all(isinstance(row, str) for row in rows):
        raise PenchantError(f"a record's field '{part}' is not a list of texts")
    return [" ".join(row.split()) for row in rows]


def dated_texts(record: dict[str, Any], part: str) -> list[Dated]:
    """The (date, text) pairs of one part, white space collapsed."""
    rows = field_of(record, part, list)
    if not all(isinstance(row, list) and [type(item) for item in row] == [str, str] for row in rows):
        raise PenchantError(f"a record's field '{part}' is not a list of [date, text]")
    return [(date, " ".join(text.split())) for date, text in rows]
