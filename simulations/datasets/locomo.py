"""Loader for LoCoMo (Maharana et al., "Evaluating very long-term conversational memory of LLM agents", ACL 2024): long
chats of two people over many dated sessions, and questions with the turns that answer them.

The data is no part of the project (CC BY-NC 4.0). One JSON file per chat: `conversation` holds `session_N`, a list of
turns (`speaker`, `dia_id`, `text`), and `session_N_date_time`; `qa` holds the questions with `evidence`, a list of
`dia_id`. Of the questions those stay that name at least one turn that exists: some evidence is misspelt ("D30:05") or
joined ("D8:6; D9:17"), which is read as meant, and some is missing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from edge_runtime.memory.statements import Statement
from protocol.errors import PenchantError

CATEGORIES: Final = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "unanswerable"}
# Chosen before anything was measured: the first three files in the order of their names are for tuning, the others
# for reporting.
TUNING_CHATS: Final = 3

_EVIDENCE = re.compile(r"D:?(\d+):0*(\d+)")
_SESSION = re.compile(r"session_(\d+)")


@dataclass(frozen=True)
class ChatTurn:
    """One message: `id` is its `dia_id`, `session` and `position` its place, `said_at` the ISO date of its session."""

    id: str
    speaker: str
    text: str
    session: int
    position: int
    said_at: str


@dataclass(frozen=True)
class ChatQuestion:
    """A question and the ids of the turns that answer it (at least one; for category 5, the turns it twists)."""

    text: str
    evidence: frozenset[str]
    category: int


@dataclass(frozen=True)
class Chat:
    """A chat of two people, its turns in order."""

    name: str
    turns: tuple[ChatTurn, ...]
    questions: tuple[ChatQuestion, ...]

    def statements(self) -> list[Statement]:
        """The turns as passages, one document per session, in the order of `turns`."""
        return [
            Statement(
                turn.text,
                said_at=turn.said_at,
                source="chat export",
                kind="passage",
                speaker=turn.speaker,
                document=f"{self.name}/session {turn.session}",
                position=turn.position,
            )
            for turn in self.turns
        ]


def load_chats(folder: Path, part: str = "all") -> list[Chat]:
    """The chats in `folder` by file name; `part` is "all", "tuning" (the first three) or "report" (the others).

    PenchantError if there are none or a file has another form.
    """
    paths = sorted(Path(folder).glob("Chat_*.json"))
    chosen = {"all": paths, "tuning": paths[:TUNING_CHATS], "report": paths[TUNING_CHATS:]}.get(part)
    if chosen is None:
        raise PenchantError('The chats are "all", "tuning" or "report".')
    if not chosen:
        raise PenchantError(f"There are no LoCoMo chats (Chat_*.json) for this in {folder}.")
    return [_load(path) for path in chosen]


def _load(path: Path) -> Chat:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        turns = _turns(record["conversation"])
        known = {turn.id for turn in turns}
        questions = [_question(entry, known) for entry in record["qa"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PenchantError(
            f"{path} is not a LoCoMo chat: it needs conversation and qa in their original form."
        ) from None
    return Chat(path.stem, turns, tuple(question for question in questions if question.evidence))


def _turns(conversation: dict[str, Any]) -> tuple[ChatTurn, ...]:
    numbers = sorted(int(found[1]) for key in conversation if (found := _SESSION.fullmatch(key)))
    turns = []
    for number in numbers:
        day = _date(conversation[f"session_{number}_date_time"])
        for position, turn in enumerate(conversation[f"session_{number}"]):
            turns.append(ChatTurn(turn["dia_id"], turn["speaker"], turn["text"], number, position, day))
    return tuple(turns)


def _date(text: str) -> str:
    """ISO date of "11:53 am on 23 March, 2023"."""
    return datetime.strptime(text.split(" on ")[1], "%d %B, %Y").date().isoformat()


def _question(entry: dict[str, Any], known: set[str]) -> ChatQuestion:
    named = {f"D{session}:{turn}" for text in entry.get("evidence", []) for session, turn in _EVIDENCE.findall(text)}
    return ChatQuestion(entry["question"], frozenset(named & known), entry["category"])
