"""The bundled village: 32 invented people (simulations/village/README.md says how they were written).

One JSON file per person under simulations/village/people, read strictly: an unknown, missing or mistyped
field is an error that names file and field. Messages and choices are split in time, the oldest three
quarters for training; facts are questions asked after that, whose evidence must lie in the training part.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protocol.errors import PenchantError
from simulations.people import Choice, Fact, Message, Person, Role, split_in_time

TRAIN_FRACTION = 0.75
Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
Index = Annotated[int, Field(ge=0)]
Made = TypeVar("Made")


class StrictRow(BaseModel):
    """Rows of a person's file: no unknown field, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class MessageRow(StrictRow):
    date: Text
    cue: Text
    text: Text


class FactRow(StrictRow):
    date: Text
    question: Text
    answer: Text
    evidence: Annotated[list[Index], Field(min_length=1)]


class ChoiceRow(StrictRow):
    date: Text
    prompt: Text
    chosen: Text
    rejected: Text


class PersonFile(StrictRow):
    id: Text
    name: Text
    about: Text
    role: Role
    messages: Annotated[list[MessageRow], Field(min_length=2)]
    facts: list[FactRow]
    choices: Annotated[list[ChoiceRow], Field(min_length=2)]


def in_file(file_name: str, field: str, make: Callable[..., Made], **arguments: Any) -> Made:
    """`make(**arguments)`, with the file and the field put before whatever it complains about."""
    try:
        return make(**arguments)
    except PenchantError as error:
        raise PenchantError(f"{file_name}: {field}: {error}") from None


def read_person(content: str, file_name: str) -> Person:
    """One person from the text of their JSON file. A `PenchantError` names the file and the field."""
    try:
        rows = PersonFile.model_validate(json.loads(content))
    except json.JSONDecodeError as error:
        raise PenchantError(f"{file_name}: not JSON, line {error.lineno}: {error.msg}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise PenchantError(f"{file_name}: {field}: {first['msg']}") from None
    if f"{rows.id}.json" != file_name:
        raise PenchantError(f"{file_name}: id: must equal the name of the file")
    messages = [
        in_file(file_name, f"messages.{index}", Message, **row.model_dump()) for index, row in enumerate(rows.messages)
    ]
    choices = [
        in_file(file_name, f"choices.{index}", Choice, **row.model_dump()) for index, row in enumerate(rows.choices)
    ]
    facts = [
        in_file(file_name, f"facts.{index}", Fact, **{**row.model_dump(), "evidence": tuple(row.evidence)})
        for index, row in enumerate(rows.facts)
    ]
    # `evidence` counts messages in the order of the file, which must therefore be the order in time.
    if [row.date for row in messages] != sorted(row.date for row in messages):
        raise PenchantError(f"{file_name}: messages: not in date order")
    train_messages, test_messages = in_file(
        file_name, "messages", split_in_time, rows=messages, train_fraction=TRAIN_FRACTION
    )
    train_choices, test_choices = in_file(
        file_name, "choices", split_in_time, rows=choices, train_fraction=TRAIN_FRACTION
    )
    return in_file(
        file_name,
        "facts",
        Person,
        id=rows.id,
        name=rows.name,
        about=rows.about,
        role=rows.role,
        train_messages=train_messages,
        test_messages=test_messages,
        facts=tuple(facts),
        train_choices=train_choices,
        test_choices=test_choices,
    )


def load_village(folder: Traversable | None = None) -> list[Person]:
    """All people of the village, sorted by role (fleet first) and id; `folder` replaces the bundled one.

    Raises a `PenchantError` that names the file and the field if anything is not as it should be.
    """
    folder = folder if folder is not None else files("simulations") / "village" / "people"
    try:
        entries = [entry for entry in folder.iterdir() if entry.name.endswith(".json")]
        people = [read_person(entry.read_text(encoding="utf-8"), entry.name) for entry in entries]
    except OSError:
        raise PenchantError(
            "the village's people cannot be read: reinstall penchant, or pass a readable folder"
        ) from None
    except UnicodeDecodeError:
        raise PenchantError("a file of the village is not UTF-8 text") from None
    if not people:
        raise PenchantError("the village's folder holds no people (*.json): reinstall penchant")
    return sorted(people, key=lambda person: (person.role, person.id))
