"""PrefEval's preferences and four-way choices, from the caller's files.

PrefEval (Zhao et al., "Do LLMs Recognize Your Preferences?", ICLR 2025; CC BY-NC 4.0) does not ship with the
project. Read is the folder `mcq_options`: one JSON list per topic, every row a stated preference, a question that a
careless answer to would violate it, and four short answers. In the files the first answer is the one that respects
the preference: whoever shows all four must shuffle them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from protocol.errors import PenchantError

OPTIONS: Final = 4
_FOLDER = "mcq_options"
_Text = Annotated[str, Field(min_length=1, pattern=r"\S")]


class _Row(BaseModel):
    """A row as the files have it; the fields that only explain it are left aside."""

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)

    preference: _Text
    question: _Text
    classification_task_options: Annotated[list[_Text], Field(min_length=OPTIONS, max_length=OPTIONS)]


@dataclass(frozen=True)
class PreferenceQuestion:
    """A person's `preference`, a later `question`, and four `options` of which the first respects the preference."""

    topic: str
    preference: str
    question: str
    options: tuple[str, ...]


def load_prefeval(folder: Path) -> dict[str, tuple[PreferenceQuestion, ...]]:
    """Topic -> its questions in the order of the file, topics by name; `folder` holds `mcq_options/`.

    PenchantError if there is nothing or a file is of another form; the text of a row never appears in it.
    """
    files = sorted((folder / _FOLDER).glob("*.json"))
    if not files:
        raise PenchantError(f"{folder} holds no {_FOLDER}/*.json: pass the folder of PrefEval's benchmark dataset")
    return {file.stem: _read_topic(file) for file in files}


def _read_topic(file: Path) -> tuple[PreferenceQuestion, ...]:
    try:
        rows = TypeAdapter(list[_Row]).validate_json(file.read_bytes())
    except OSError:
        raise PenchantError(f"cannot read {file}: check that it exists and is readable") from None
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the file"
        raise PenchantError(f"{file.name} is not of PrefEval's form: see {where}") from None
    return tuple(
        PreferenceQuestion(
            file.stem,
            row.preference.strip(),
            row.question.strip(),
            tuple(map(str.strip, row.classification_task_options)),
        )
        for row in rows
    )
