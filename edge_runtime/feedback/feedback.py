"""What the owner thinks of answers: thumbs, edits, and choices between two answers.

All of it ends as pairs ready for training (`preferences`): an edit is preferred to what was edited, and an answer
with its thumb up to one with its thumb down where both answered the same question. A thumb alone is no pair; it
waits for its opposite.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass

from edge_runtime.answering.conversations import Turn
from edge_runtime.feedback.preferences import (
    PREFERENCE_STEPS,
    Preference,
    add_preference,
    list_preferences,
    remove_preference,
)
from edge_runtime.memory.statements import checked_text, content_digest, utc_now
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

_RATING_COLUMNS = "turn, prompt, answer, up, note, rated_at"


@dataclass(frozen=True)
class Rating:
    """A thumb for the answer of one turn; the last word on a turn counts. `rated_at` is an ISO time in UTC."""

    turn: int
    prompt: str
    answer: str
    up: bool
    note: str
    rated_at: str


class Feedback:
    """The feedback of one device's owner."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        vault.migrate("preferences", PREFERENCE_STEPS)

    def thumbs(self, turn: Turn, prompt: str, up: bool, note: str = "") -> Rating:
        """Rates an answer to `prompt`, in place of an earlier rating of the same turn. Answers to the same prompt
        that were rated the other way make pairs with it."""
        answer = _answer_text(turn)
        prompt, note = checked_text(prompt), checked_text(note) if note.strip() else ""
        question = content_digest(prompt)
        with self._vault.transaction() as connection:
            self._remove_rating(turn.id)
            opposite = connection.execute(
                "SELECT answer, memory_ids FROM ratings WHERE question = ? AND up = ?", (question, not up)
            ).fetchall()
            connection.execute(
                "INSERT INTO ratings VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (turn.id, question, prompt, answer, up, note, utc_now(), json.dumps(sorted(turn.memory_ids))),
            )
            for other, memory_ids in opposite:
                if content_digest(other) != content_digest(answer):
                    chosen, rejected = (answer, other) if up else (other, answer)
                    behind = turn.memory_ids | set(json.loads(memory_ids))
                    add_preference(self._vault, prompt, chosen, rejected, origin="thumbs", memory_ids=behind)
        return self._ratings("WHERE turn = ?", (turn.id,))[0]

    def edit(self, turn: Turn, prompt: str, better: str) -> Preference:
        """Stores the owner's wording, preferred to the answer's; PenchantError if nothing was changed."""
        answer = _answer_text(turn)
        return add_preference(self._vault, prompt, better, answer, origin="edit", memory_ids=turn.memory_ids)

    def add_preference(self, prompt: str, chosen: str, rejected: str, *, said_at: str | None = None) -> Preference:
        """Stores a choice; an equal one that is already there is returned unchanged."""
        return add_preference(self._vault, prompt, chosen, rejected, said_at)

    def preferences(self) -> list[Preference]:
        """All choices, oldest first: pairs ready for training."""
        return list_preferences(self._vault)

    def ratings(self) -> list[Rating]:
        """All thumbs, oldest first."""
        return self._ratings()

    def remove(self, *, preference: int | None = None, turn: int | None = None) -> None:
        """Takes back a preference by its id, or the thumb of a turn with the pairs it made; PenchantError if there
        is none."""
        with self._vault.transaction():
            if preference is not None:
                remove_preference(self._vault, preference)
            if turn is not None and not self._remove_rating(turn):
                raise PenchantError(f"Turn {turn} has no rating; `penchant feedback list` shows those that have.")

    def forget_traces(self, item_ids: Collection[int], is_trace: Callable[[str], bool]) -> int:
        """Removes what answers from these memories gave rise to and what repeats their words; how many rows."""
        forgotten, removed = set(item_ids), 0
        tables = {"preferences": ("id", "prompt, chosen, rejected"), "ratings": ("turn", "prompt, answer, note")}
        with self._vault.transaction() as connection:
            for table, (key, texts) in tables.items():
                for row_id, memory_ids, *words in connection.execute(
                    f"SELECT {key}, memory_ids, {texts} FROM {table}"
                ).fetchall():
                    if forgotten & set(json.loads(memory_ids)) or is_trace("\n".join(words)):
                        connection.execute(f"DELETE FROM {table} WHERE {key} = ?", (row_id,))
                        removed += 1
        return removed

    def forget_all(self) -> int:
        """Removes every choice and every rating; how many."""
        with self._vault.transaction() as connection:
            return sum(int(connection.execute(f"DELETE FROM {table}").rowcount) for table in ("preferences", "ratings"))

    def _remove_rating(self, turn: int) -> bool:
        """Removes the rating of a turn and the pairs that rest on it alone; whether there was one."""
        connection = self._vault.connection
        rated = connection.execute("SELECT question, prompt, answer FROM ratings WHERE turn = ?", (turn,)).fetchone()
        if rated is None:
            return False
        question, prompt, answer = rated
        connection.execute("DELETE FROM ratings WHERE turn = ?", (turn,))
        left = {
            (content_digest(text), bool(up))
            for text, up in connection.execute("SELECT answer, up FROM ratings WHERE question = ?", (question,))
        }
        for row_id, asked, chosen, rejected in connection.execute(
            "SELECT id, prompt, chosen, rejected FROM preferences WHERE origin = 'thumbs'"
        ).fetchall():
            backed = {(content_digest(chosen), True), (content_digest(rejected), False)} <= left
            if content_digest(asked) == content_digest(prompt) and answer in (chosen, rejected) and not backed:
                connection.execute("DELETE FROM preferences WHERE id = ?", (row_id,))
        return True

    def _ratings(self, where: str = "", values: tuple[int, ...] = ()) -> list[Rating]:
        rows = self._vault.connection.execute(
            f"SELECT {_RATING_COLUMNS} FROM ratings {where} ORDER BY rated_at, turn", values
        )
        return [
            Rating(turn, prompt, answer, bool(up), note, rated_at) for turn, prompt, answer, up, note, rated_at in rows
        ]


def _answer_text(turn: Turn) -> str:
    if turn.role != "assistant":
        raise PenchantError("Feedback is about an answer; this turn is what you said yourself.")
    return checked_text(turn.text)
