"""A person's year in increments: what each of them teaches, and what was written next to it and is held out.

A person is a blogger or a novel with enough long texts in the order of time; the newest are taken. Of each text the
words fall into two halves: ``cue_words`` and ``reply_words`` are taught, the next ``cue_words`` and ``reply_words`` are
held out. So every increment has held-out words of its own days, even of its own subjects, that no training saw. The
texts after the last increment are the future.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

from client.examples import Example, make_example
from edge_runtime.answering.drafting import plain_draft
from edge_runtime.engine.engine import Engine
from protocol.errors import PenchantError
from simulations.datasets.writing import Dated, dated_texts, field_of, person_id, plain_texts, read_records
from simulations.studies.personal_fleet import FILES

CUES: Final = {"blogs": "Continue my post: ", "novels": "Continue the passage: "}


@dataclass(frozen=True)
class YearSplit:
    """How a year is cut: ``increments`` of ``size`` texts and ``future`` texts after them. A blogger's must lie at
    least ``days`` apart, the first from the last (passages of a novel have no date)."""

    increments: int = 10
    size: int = 5
    future: int = 6
    cue_words: int = 8
    reply_words: int = 32
    days: int = 200
    seed: int = 0

    @property
    def texts(self) -> int:
        """Texts that a person needs."""
        return self.increments * self.size + self.future

    @property
    def words(self) -> int:
        """Words that a text needs: of the half that is held out at least the cue and half of the reply."""
        return 2 * self.cue_words + self.reply_words + self.reply_words // 2


@dataclass(frozen=True)
class Year:
    """One person: ``taught[k]`` and ``held_out[k]`` belong to increment k + 1, ``future`` comes after the last."""

    id: str
    taught: tuple[tuple[Example, ...], ...]
    held_out: tuple[tuple[Example, ...], ...]
    future: tuple[Example, ...]


def load_years(folder: Path, source: str, engine: Engine, split: YearSplit, people: int) -> list[Year]:
    """The first ``people`` of a source, in the order of the seed: asking for more only adds to them. PenchantError if
    there are too few with a long enough year."""
    if source not in FILES:
        raise PenchantError(f"there is no source {source!r}: take one of {', '.join(FILES)}")
    records = list(read_records(folder / FILES[source]))
    random.Random(f"lifelong {source} {split.seed}").shuffle(records)
    years = [year_of(person, rows, source, engine, split) for person, rows in _long(records, source, split, people)]
    if len(years) < people:
        raise PenchantError(f"{source}: {len(years)} people have {split.texts} long texts, not {people}: ask for fewer")
    return years


def _long(
    records: Sequence[dict[str, Any]], source: str, split: YearSplit, people: int
) -> Iterator[tuple[str, list[Dated]]]:
    """The first ``people`` with enough, each with the newest texts it needs in the order of time; nobody twice (the
    corpus holds some blogs under two names)."""
    seen: set[str] = set()
    found = 0
    for record in records:
        parts = ("train", "val", "test") if source == "blogs" else ("train", "test")
        if source == "blogs":
            rows = sorted((row for part in parts for row in dated_texts(record, part)), key=lambda row: row[0])
        else:
            rows = [(str(field_of(record, "year", int)), text) for part in parts for text in plain_texts(record, part)]
        rows = list({text: (day, text) for day, text in rows if len(text.split()) >= split.words}.values())
        texts = {text for _, text in rows}
        rows = rows[max(0, len(rows) - split.texts) :]
        if len(rows) < split.texts or texts & seen or (source == "blogs" and _days(rows) < split.days):
            continue
        seen |= texts
        yield person_id(source, record), rows
        found += 1
        if found == people:
            return


def _days(rows: Sequence[Dated]) -> int:
    return (date.fromisoformat(rows[-1][0]) - date.fromisoformat(rows[0][0])).days


def year_of(person: str, rows: Sequence[Dated], source: str, engine: Engine, split: YearSplit) -> Year:
    """The examples of one person's texts (in the order of time)."""
    half = split.cue_words + split.reply_words

    def examples(number: int, first: int) -> tuple[Example, ...]:
        chosen = rows[number * split.size : (number + 1) * split.size]
        return tuple(_example(engine, CUES[source], text.split()[first : first + half], split) for _, text in chosen)

    numbers = range(split.increments)
    after = [text.split()[:half] for _, text in rows[split.increments * split.size :]]
    return Year(
        person,
        tuple(examples(number, 0) for number in numbers),
        tuple(examples(number, half) for number in numbers),
        tuple(_example(engine, CUES[source], words, split) for words in after),
    )


def _example(engine: Engine, cue: str, words: Sequence[str], split: YearSplit) -> Example:
    asked, reply = words[: split.cue_words], words[split.cue_words :]
    return make_example(engine, plain_draft(cue + " ".join(asked)), " ".join(reply))
