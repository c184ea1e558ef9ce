"""People with a dozen short texts and a workshop on a tiny model, for the tests of the history study."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import date, timedelta

from edge_runtime.models.catalogue import describe_model
from simulations.people import Message, Person
from simulations.studies.personal_fleet import Workshop
from tests.client.framed_help import tiny_frame, tiny_gguf, tiny_model

FIRST_DAY = date(2025, 1, 1)


def person_of(name: str, texts: int = 14, held_out: int = 2) -> Person:
    """Somebody whose texts are all alike, and unlike anybody else's."""
    rows = [
        Message((FIRST_DAY + timedelta(days=day)).isoformat(), f"Say {name} {day}", f"{name * 4} and the {name} {day}")
        for day in range(texts + held_out)
    ]
    train, test = tuple(rows[:texts]), tuple(rows[texts:])
    return Person(name, name, "", "fleet", train, test, (), (), ())


@contextmanager
def tiny_shop() -> Iterator[Workshop]:
    model = describe_model(tiny_gguf())
    frame = replace(tiny_frame(), base_sha256=model.sha256)
    with closing(Workshop(model, tiny_model(), frame)) as shop:
        yield shop
