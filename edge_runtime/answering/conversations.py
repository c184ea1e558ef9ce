"""What was said in chats, in the encrypted file: the history that the owner can read again, and the buffer that
memories are consolidated from.

Both sides' turns are kept here and only here: a memory is made of the owner's own words (`memory/consolidation.py`
reads `unconsolidated`), never of an answer. A turn of the assistant carries the audit of how it came about
(`audit.py`). Forgetting takes whole exchanges, the question with its answers: an answer repeats what the question
said, and the other way round.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from edge_runtime.memory.statements import utc_now
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

ROLES: Final = ("user", "assistant")
_TITLE_CHARACTERS: Final = 60
_STEPS: Final = (
    "CREATE TABLE conversations (id TEXT PRIMARY KEY, started_at TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE turns (id INTEGER PRIMARY KEY AUTOINCREMENT, "
    "conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE, role TEXT NOT NULL, "
    "text TEXT NOT NULL, said_at TEXT NOT NULL, audit TEXT, consolidated INTEGER NOT NULL DEFAULT 0)",
    "CREATE INDEX turns_by_conversation ON turns (conversation, id)",
)
_COLUMNS = "id, conversation, role, text, said_at, audit"


@dataclass(frozen=True)
class Turn:
    """One thing said: by the `"user"` or the `"assistant"`; `said_at` is an ISO time in UTC, `audit` what went into
    an answer (None for what the user said)."""

    id: int
    conversation: str
    role: str
    text: str
    said_at: str
    audit: dict[str, Any] | None = None

    @property
    def memory_ids(self) -> frozenset[int]:
        """The memories that were shown to the model for this answer."""
        shown = (candidate["id"] for candidate in (self.audit or {}).get("candidates", ()) if candidate.get("kept"))
        return frozenset(int(id_.removeprefix("memory:")) for id_ in shown if id_.startswith("memory:"))


@dataclass(frozen=True)
class ConversationInfo:
    """One conversation in a list: ISO times, number of turns, and its first words as a title."""

    id: str
    started_at: str
    last_at: str
    turns: int
    title: str


class Conversations:
    """The conversations of one device."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        vault.migrate("conversations", _STEPS)

    def new(self) -> str:
        """Starts a conversation and returns its id."""
        conversation = secrets.token_hex(8)
        self._vault.connection.execute("INSERT INTO conversations VALUES (?, ?)", (conversation, utc_now()))
        return conversation

    def add(self, conversation: str, role: str, text: str, audit: dict[str, Any] | None = None) -> Turn:
        """Stores one turn and returns it once it is on disk; PenchantError if there is no such conversation."""
        if role not in ROLES:
            raise PenchantError(f"A turn is said by one of {', '.join(ROLES)}.")
        with self._vault.transaction() as connection:
            self._check(conversation)
            said_at = utc_now()
            stored = None if audit is None else json.dumps(audit, ensure_ascii=False)
            cursor = connection.execute(
                "INSERT INTO turns (conversation, role, text, said_at, audit) VALUES (?, ?, ?, ?, ?)",
                (conversation, role, text, said_at, stored),
            )
        return Turn(int(cursor.lastrowid or 0), conversation, role, text, said_at, audit)

    def turns(self, conversation: str) -> list[Turn]:
        """All turns of a conversation, oldest first; PenchantError if there is no such conversation."""
        self._check(conversation)
        return self._select("WHERE conversation = ?", (conversation,))

    def turn(self, turn_id: int) -> Turn:
        """The turn with this id; PenchantError if there is none."""
        found = self._select("WHERE id = ?", (turn_id,))
        if not found:
            raise PenchantError(f"There is no turn {turn_id}; the turns of a conversation carry their ids.")
        return found[0]

    def last_answer(self) -> Turn:
        """The newest turn of the assistant in any conversation; PenchantError if nothing was answered yet."""
        found = self._select("WHERE id = (SELECT max(id) FROM turns WHERE role = 'assistant')")
        if not found:
            raise PenchantError("Nothing has been answered yet; `penchant chat` keeps its conversations.")
        return found[0]

    def question_of(self, turn: Turn) -> str:
        """What the user said before this turn of the assistant."""
        found = self._select(
            "WHERE id = (SELECT max(id) FROM turns WHERE conversation = ? AND role = 'user' AND id < ?)",
            (turn.conversation, turn.id),
        )
        if turn.role != "assistant" or not found:
            raise PenchantError(f"Turn {turn.id} is not an answer; take the id of a turn of the assistant.")
        return found[0].text

    def listing(self) -> list[ConversationInfo]:
        """All conversations, the one spoken in last first."""
        rows = self._vault.connection.execute(
            "SELECT c.id, c.started_at, coalesce(max(t.said_at), c.started_at), count(t.id), coalesce("
            "(SELECT text FROM turns WHERE conversation = c.id AND role = 'user' ORDER BY id LIMIT 1), '') "
            "FROM conversations c LEFT JOIN turns t ON t.conversation = c.id "
            "GROUP BY c.id ORDER BY coalesce(max(t.said_at), c.started_at) DESC, coalesce(max(t.id), 0) DESC"
        )
        return [ConversationInfo(id_, start, last, count, _title(text)) for id_, start, last, count, text in rows]

    def delete(self, conversation: str) -> None:
        """Removes a conversation with all its turns; PenchantError if there is none."""
        with self._vault.transaction() as connection:
            self._check(conversation)
            connection.execute("DELETE FROM conversations WHERE id = ?", (conversation,))

    def unconsolidated(self) -> list[Turn]:
        """What the user said and nobody has looked through for memories yet, oldest first."""
        return self._select("WHERE role = 'user' AND NOT consolidated")

    def mark_consolidated(self, turn_ids: Collection[int]) -> None:
        """Notes that these turns were looked through."""
        with self._vault.transaction() as connection:
            connection.execute(
                "UPDATE turns SET consolidated = 1 WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(sorted(turn_ids)),),
            )

    def forget_traces(self, item_ids: Collection[int], is_trace: Callable[[str], bool]) -> int:
        """Removes every exchange whose answer rests on one of these memories or that repeats their words, and strikes
        them from the other audits; how many turns went. Conversations left empty go too."""
        forgotten = frozenset(item_ids)
        doomed: list[int] = []
        with self._vault.transaction() as connection:
            for exchange in self._exchanges():
                if any(_is_touched(turn, forgotten, is_trace) for turn in exchange):
                    doomed += [turn.id for turn in exchange]
                    continue
                for turn in exchange:
                    struck = _struck(turn.audit, forgotten)
                    if struck is not None:
                        connection.execute(
                            "UPDATE turns SET audit = ? WHERE id = ?", (json.dumps(struck, ensure_ascii=False), turn.id)
                        )
            affected = connection.execute(
                "SELECT DISTINCT conversation FROM turns WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(doomed),),
            ).fetchall()
            connection.execute("DELETE FROM turns WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(doomed),))
            for (conversation,) in affected:
                connection.execute(
                    "DELETE FROM conversations WHERE id = ? AND NOT EXISTS "
                    "(SELECT 1 FROM turns WHERE conversation = conversations.id)",
                    (conversation,),
                )
        return len(doomed)

    def forget_all(self) -> int:
        """Removes every conversation; how many turns went."""
        with self._vault.transaction() as connection:
            removed = int(connection.execute("DELETE FROM turns").rowcount)
            connection.execute("DELETE FROM conversations")
        return removed

    def _exchanges(self) -> Iterator[list[Turn]]:
        """Every turn of the user with the answers to it."""
        by_conversation = groupby(self._select(order="conversation, id"), key=lambda turn: turn.conversation)
        for _, turns in by_conversation:
            exchange: list[Turn] = []
            for turn in turns:
                if turn.role == "user" and exchange:
                    yield exchange
                    exchange = []
                exchange.append(turn)
            yield exchange

    def _check(self, conversation: str) -> None:
        found = self._vault.connection.execute("SELECT 1 FROM conversations WHERE id = ?", (conversation,)).fetchone()
        if found is None:
            raise PenchantError("There is no such conversation; start a new one.")

    def _select(self, where: str = "", values: Sequence[object] = (), *, order: str = "id") -> list[Turn]:
        rows = self._vault.connection.execute(f"SELECT {_COLUMNS} FROM turns {where} ORDER BY {order}", tuple(values))
        return [
            Turn(id_, conversation, role, text, said_at, None if audit is None else json.loads(audit))
            for id_, conversation, role, text, said_at, audit in rows
        ]


def _title(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TITLE_CHARACTERS else line[:_TITLE_CHARACTERS].rsplit(" ", 1)[0] + " ..."


def _is_touched(turn: Turn, forgotten: frozenset[int], is_trace: Callable[[str], bool]) -> bool:
    return bool(turn.memory_ids & forgotten) or is_trace("\n".join([turn.text, *_strings(turn.audit)]))


def _struck(audit: dict[str, Any] | None, forgotten: frozenset[int]) -> dict[str, Any] | None:
    """The audit without the candidates in `forgotten`, or None if it names none of them."""
    names = {f"memory:{item_id}" for item_id in forgotten}
    candidates = (audit or {}).get("candidates", [])
    left = [candidate for candidate in candidates if candidate["id"] not in names]
    return None if audit is None or len(left) == len(candidates) else {**audit, "candidates": left}


def _strings(value: object) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)
