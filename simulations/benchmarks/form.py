"""One form for every benchmark of personalisation: a person, what they did so far, and what they are asked next.

    Task      person, history (input -> output, oldest first), queries
    Query     input, gold, options (none: the gold is a text), evidence (places in the history)
    Benchmark tasks that are reported, others on which settings are chosen, and how the product serves the queries:

    serving    the product's way                                   history becomes
    writing    `penchant draft`: earlier replies told as turns     request -> what the person wrote or answered
    question   `penchant ask`: what was recalled as notes          what the person said in a chat
    advice     the choice among answers that suits the owner       the person's own statements

A history is made of `simulations.people.Message`, which a device remembers as it is. Readers of files share the checks
at the end: an error names the file and the place in it, and never quotes a text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from protocol.errors import PenchantError
from simulations.people import Message

Serving = Literal["writing", "question", "advice"]
Measure = Literal["accuracy", "mae", "rouge1", "nats"]
LOWER_IS_BETTER: Final = frozenset({"mae", "nats"})
_FIRST_DAY: Final = date(2000, 1, 1)
_ISO_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_MOST_WORDS: Final = 60  # of one text in a prompt: the small model's context holds several of them

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
# A word or a number, as a text: files write ids and scores in both ways.
Number = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)]
Row = TypeVar("Row")


class FileRow(BaseModel):
    """A row of a file: the fields that are read, in their own types; the others are left aside."""

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)


@dataclass(frozen=True)
class Query:
    """What a person is asked after their history. ``gold`` is one of ``options``, if there are any; ``evidence`` are
    the places in the history from which it follows, if that is known."""

    input: str
    gold: str
    options: tuple[str, ...] = ()
    evidence: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.options and (self.gold not in self.options or len(self.options) < 2):
            raise PenchantError("a query's right answer must be one of its two or more options")
        if not self.input.strip() or not self.gold.strip():
            raise PenchantError("a query needs an input and a right answer")


@dataclass(frozen=True)
class Task:
    """One person's part of a benchmark."""

    person: str
    history: tuple[Message, ...]
    queries: tuple[Query, ...]

    def __post_init__(self) -> None:
        if not self.history or not self.queries:
            raise PenchantError(f"person {self.person} needs a history and something to be asked")
        if any(later.date < earlier.date for earlier, later in zip(self.history, self.history[1:], strict=False)):
            raise PenchantError(f"person {self.person}: the history is not in the order of its dates")
        if any(not 0 <= place < len(self.history) for query in self.queries for place in query.evidence):
            raise PenchantError(f"person {self.person}: evidence lies outside the history")


@dataclass(frozen=True)
class Benchmark:
    """``tasks`` are reported by ``measure``; nothing was chosen on them, but on ``tuning``. ``labels`` where all
    queries have the same options; for the measure ``mae`` they are ratings, the lowest first. ``answer_tokens``: the
    most of a generated answer."""

    name: str
    serving: Serving
    measure: Measure
    tasks: tuple[Task, ...]
    tuning: tuple[Task, ...] = ()
    labels: tuple[str, ...] = ()
    answer_tokens: int = 64

    def __post_init__(self) -> None:
        people = [task.person for task in (*self.tasks, *self.tuning)]
        if len(set(people)) != len(people):
            raise PenchantError(f"{self.name}: a person is there twice, or both reported and tuned on")


def cut(name: str, tasks: Sequence[Task], people: int, tuning: int) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """(reported, tuning): the first ``tuning`` tasks are for choosing settings, the next ``people`` are reported."""
    if len(tasks) < people + tuning:
        raise PenchantError(
            f"{name}: {len(tasks)} people have a history and queries, not {people + tuning}: ask for fewer (--people)"
        )
    return tuple(tasks[tuning : tuning + people]), tuple(tasks[:tuning])


def numbered_day(place: int) -> str:
    """An ISO date that stands for a place in a history without dates."""
    return (_FIRST_DAY + timedelta(days=place)).isoformat()


def history_of(rows: Sequence[tuple[str, str, str]], most: int | None = None) -> tuple[Message, ...]:
    """The newest ``most`` of the rows (date, input, output). They are ordered by date if each has one (YYYY-MM-DD);
    otherwise they stay in the order of the file, and the n-th has the n-th day."""
    kept = [(day, " ".join(cue.split()), " ".join(text.split())) for day, cue, text in rows]
    if all(_is_day(day) for day, _, _ in kept):
        kept.sort(key=lambda row: row[0])
    else:
        kept = [(numbered_day(place), cue, text) for place, (_, cue, text) in enumerate(kept)]
    return tuple(Message(*row) for row in (kept if most is None else kept[-most:]))


def _is_day(text: str) -> bool:
    try:
        return bool(_ISO_DAY.fullmatch(text) and date.fromisoformat(text))
    except ValueError:
        return False


def shortened(text: str, words: int = _MOST_WORDS) -> str:
    """The first ``words`` words, on one line."""
    return " ".join(text.split()[:words])


def read_json(path: Path, form: type[Row], what: str) -> Row:
    """The JSON of a file as ``form``; PenchantError with file and place otherwise."""
    try:
        checked: Row = TypeAdapter(form).validate_json(path.read_bytes())
        return checked
    except OSError:
        raise PenchantError(f"cannot read {path}: pass the folder that holds {path.name}") from None
    except ValidationError as error:
        raise PenchantError(f"{path.name} is not of {what}'s form: see {_place(error)}") from None


def read_json_lines(path: Path, form: type[Row], what: str) -> list[Row]:
    """The JSON lines of a file, each as ``form``; PenchantError with file and line otherwise."""
    checker, rows = TypeAdapter(form), []
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        raise PenchantError(f"cannot read {path}: pass the folder that holds {path.name}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(checker.validate_json(line))
        except ValidationError as error:
            raise PenchantError(f"{path.name} is not of {what}'s form: see line {number}, {_place(error)}") from None
    return rows


def _place(error: ValidationError) -> str:
    return ".".join(str(part) for part in error.errors()[0]["loc"]) or "the file"
