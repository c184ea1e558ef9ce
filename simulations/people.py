"""People as the experiments see them: dated messages, facts with answers, choices, split in time.

A person is what one device would hold. Everything that a model may learn from (`train_*`) is older than
everything it is judged on (`test_*`), per kind of row; a `Person` that breaks this cannot be made. Facts
are never trained on: they are questions asked later, whose answers stand in the training messages.

The text of a row never appears in an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date as calendar_date
from itertools import pairwise
from typing import Literal, Protocol, TypeVar

from protocol.errors import PenchantError

Role = Literal["fleet", "newcomer"]


def check_date(date: str) -> str:
    """The same ISO date (YYYY-MM-DD), which sorts as text; anything else is a `PenchantError`."""
    try:
        if calendar_date.fromisoformat(date).isoformat() == date:
            return date
    except ValueError:
        pass
    raise PenchantError("a row's date is not of the form YYYY-MM-DD")


@dataclass(frozen=True)
class Message:
    """Something the person wrote: `text` is theirs, `cue` is the request or what came before."""

    date: str  # ISO, YYYY-MM-DD
    cue: str
    text: str

    def __post_init__(self) -> None:
        check_date(self.date)


@dataclass(frozen=True)
class Fact:
    """A question that the person might ask of their own memory, and its answer.

    `evidence` holds the indices into `train_messages` from which the answer follows (empty where unknown).
    """

    date: str
    question: str
    answer: str
    evidence: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_date(self.date)


@dataclass(frozen=True)
class Choice:
    """For this prompt the person preferred one answer to another."""

    date: str
    prompt: str
    chosen: str
    rejected: str

    def __post_init__(self) -> None:
        check_date(self.date)


@dataclass(frozen=True)
class Person:
    """One person, every row in date order. `about` is for a reader of a report, never for a model."""

    id: str
    name: str
    about: str
    role: Role
    train_messages: tuple[Message, ...]
    test_messages: tuple[Message, ...]
    facts: tuple[Fact, ...]
    train_choices: tuple[Choice, ...]
    test_choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        check_time_order(self.id, "messages", self.train_messages, self.test_messages)
        check_time_order(self.id, "choices", self.train_choices, self.test_choices)
        check_time_order(self.id, "facts", (), self.facts)
        for fact in self.facts:
            for index in fact.evidence:
                if not 0 <= index < len(self.train_messages):
                    raise PenchantError(f"person {self.id}: a fact's evidence points outside the training messages")
                if self.train_messages[index].date > fact.date:
                    raise PenchantError(f"person {self.id}: a fact is asked before its evidence was written")


class Dated(Protocol):
    """Anything with an ISO date."""

    @property
    def date(self) -> str: ...


Row = TypeVar("Row", bound=Dated)


def check_time_order(person: str, kind: str, train: Sequence[Dated], test: Sequence[Dated]) -> None:
    """Raises a `PenchantError` unless both parts are in date order and every training date precedes every
    held-out date. A shared day is refused too: within a day nothing says which came first.
    """
    for part in (train, test):
        if any(earlier.date > later.date for earlier, later in pairwise(part)):
            raise PenchantError(f"person {person}: {kind} are not in date order")
    if train and test and train[-1].date >= test[0].date:
        raise PenchantError(f"person {person}: training {kind} reach into the time of the held-out ones")


def split_in_time(rows: Sequence[Row], train_fraction: float) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The oldest `train_fraction` (0 < f < 1, rounded down) for training, the rest held out, in date order.

    Rows of the day on which the cut falls are all held out, so that the parts never share a day. Raises a
    `PenchantError` if either part would be empty.
    """
    if not 0.0 < train_fraction < 1.0:
        raise PenchantError("the fraction for training must lie between 0 and 1")
    ordered = sorted(rows, key=lambda row: row.date)
    cut = int(len(ordered) * train_fraction)
    if cut >= len(ordered):
        raise PenchantError("too few rows to split in time")
    first_held_out_day = ordered[cut].date
    train = tuple(row for row in ordered if row.date < first_held_out_day)
    if not train:
        raise PenchantError("too few rows, or too few days, to split in time")
    return train, tuple(ordered[len(train) :])
