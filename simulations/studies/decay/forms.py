"""How a preference comes up in a chat: PrefEval's explicit and two implicit forms, and unrelated turns to put after it.

Beside `mcq_options` (`simulations.datasets.prefeval`) the files hold, row for row, in `implicit_preference/`:

    choice-based     a question, four suggestions, which of them the person takes, and an acknowledgement
    persona-driven   some five exchanges on other things, in which the preference shows once

`explicit` needs no file: the person states the preference. Unrelated turns are the questions of the choice-based form
with their four suggestions, from topics of another kind ("lifestyle", "education"): who asks says nothing of themself
there, and no suggestion is taken, so nothing is invented about the person.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from edge_runtime.engine.chat_template import ChatMessage
from protocol.errors import PenchantError
from simulations.datasets.prefeval import PreferenceQuestion, load_prefeval

FORMS: Final = ("explicit", "choice-based", "persona-driven")
Chat = tuple[ChatMessage, ...]
_FOLDER: Final = "implicit_preference"
_THANKS: Final = "Thank you for telling me."
_Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
_Form = TypeVar("_Form", bound="_Row")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)


class _Row(_Strict):
    preference: _Text
    question: _Text


class _Taken(_Strict):
    query: _Text
    assistant_options: _Text
    user_selection: _Text
    assistant_acknowledgment: _Text


class _ChoiceRow(_Row):
    conversation: _Taken


class _Exchange(_Strict):
    user: _Text
    assistant: _Text


class _PersonaRow(_Row):
    conversation: Annotated[dict[Annotated[str, Field(pattern=r"^\d+$")], _Exchange], Field(min_length=1)]


_CHOICE_ROWS: Final = TypeAdapter(list[_ChoiceRow])
_PERSONA_ROWS: Final = TypeAdapter(list[_PersonaRow])


def load_forms(folder: Path, form: str) -> dict[PreferenceQuestion, Chat]:
    """Every question with the chat in which its preference comes up. PenchantError if a file is missing, of another
    form, or has other rows than the options; the text of a row never appears in it."""
    if form not in FORMS:
        raise PenchantError(f"there is no form {form!r}: take one of {', '.join(FORMS)}")
    topics = load_prefeval(folder)
    if form == "explicit":
        return {row: _said(row.preference, _THANKS) for rows in topics.values() for row in rows}
    chats: dict[PreferenceQuestion, Chat] = {}
    for topic, rows in topics.items():
        if form == "choice-based":
            told = _read(folder, form, topic, rows, _CHOICE_ROWS)
            chats |= dict(zip(rows, map(_choice_chat, told), strict=True))
        else:
            chats |= dict(zip(rows, map(_persona_chat, _read(folder, form, topic, rows, _PERSONA_ROWS)), strict=True))
    return chats


def unrelated_turns(folder: Path) -> dict[str, tuple[Chat, ...]]:
    """Topic -> exchanges (a question, four suggestions) of it that may stand in chats about other kinds of topics."""
    return {
        topic: tuple(
            _said(row.conversation.query, row.conversation.assistant_options)
            for row in _read(folder, "choice-based", topic, rows, _CHOICE_ROWS)
        )
        for topic, rows in load_prefeval(folder).items()
    }


def draw_turns(exchanges: Mapping[str, Sequence[Chat]], topic: str, count: int, seed: str) -> tuple[Chat, ...]:
    """``count`` exchanges of topics of another kind than ``topic``; fewer of a seed's begin its longer draws."""
    kind = topic.split("_")[0]
    others = [one for name, chats in exchanges.items() if name.split("_")[0] != kind for one in chats]
    if len(others) < count:
        raise PenchantError(f"there are {len(others)} unrelated exchanges, not {count}: ask for fewer turns")
    return tuple(random.Random(seed).sample(others, len(others))[:count])


def _read(
    folder: Path, form: str, topic: str, rows: Sequence[PreferenceQuestion], kind: TypeAdapter[list[_Form]]
) -> list[_Form]:
    file = folder / _FOLDER / form / f"{topic}.json"
    try:
        found = kind.validate_json(file.read_bytes())
    except OSError:
        raise PenchantError(f"cannot read {file}: pass the folder of PrefEval's benchmark dataset") from None
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the file"
        raise PenchantError(f"{form}/{file.name} is not of PrefEval's form: see {where}") from None
    wanted = [(row.preference, row.question) for row in rows]
    if [(one.preference.strip(), one.question.strip()) for one in found] != wanted:
        raise PenchantError(f"{form}/{file.name} has other rows than mcq_options/{file.name}: fetch both again")
    return found


def _choice_chat(row: _ChoiceRow) -> Chat:
    told = row.conversation
    return (*_said(told.query, told.assistant_options), *_said(told.user_selection, told.assistant_acknowledgment))


def _persona_chat(row: _PersonaRow) -> Chat:
    turns = [row.conversation[number] for number in sorted(row.conversation, key=int)]
    return tuple(message for turn in turns for message in _said(turn.user, turn.assistant))


def _said(user: str, assistant: str) -> Chat:
    return ChatMessage("user", user.strip()), ChatMessage("assistant", assistant.strip())
