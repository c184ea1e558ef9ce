"""The prompt of an answer: worked turns, notes, question.

The layout was chosen by trying a dozen on the bundled 135M model with 12 facts among distractors: 8 questions
came out right with the notes in a system prompt, 9 with the notes in the question's own turn, all 12 when
worked turns before it show how: take the note that matters, turn "my" into "your", and leave notes aside that
have nothing to do with the question. On 6 facts that had no part in the choice it answers 6. Few notes, the
best one last, right before the question. System prompt and worked turns are the same for every question and come
first, so the engine keeps what it computed for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from edge_runtime.answering.gist import gist
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.memory.statements import Recalled

_WITH_NOTES = "Answer the question from the user's notes."
_WITHOUT_NOTES = "You are a helpful assistant."
_CAT, _CELLO = "My cat is called Minou.", "I play the cello on Tuesdays."
_WORKED_TURNS: Final = (
    ((_CELLO, _CAT), "What is my cat called?", "Your cat is called Minou."),
    ((_CAT, _CELLO), "When do I play the cello?", "You play the cello on Tuesdays."),
    (
        ("My friend Anton has an exam on Friday.",),
        "Write one line to wish my friend luck.",
        "Good luck with your exam on Friday, Anton, you will do well!",
    ),
    ((_CAT,), "How many days does a week have?", "A week has seven days."),
)
_REMEMBER = re.compile(
    r"\s*(?:please[, ]+)?remember(?:,?\s+please,?)?[,:]?\s+that[,:]?\s+(?P<statement>\S.*)",
    re.IGNORECASE | re.DOTALL,
)


def statement_to_remember(text: str) -> str | None:
    """The statement in "remember that ..." (also "please remember: that ..."), or None if `text` is something
    else."""
    found = _REMEMBER.fullmatch(text)
    return found["statement"].strip() if found else None


def build_messages(question: str, memories: Sequence[Recalled]) -> list[ChatMessage]:
    """The chat for `question` with these memories (best first) as its notes."""
    return lay_out(question, [gist(recalled.item.text, question) for recalled in memories])


def lay_out(
    question: str,
    notes: Sequence[str],
    *,
    earlier: Sequence[ChatMessage] = (),
    system: str = "",
    key_line: str = "",
) -> list[ChatMessage]:
    """The chat for `question`. `notes` are single lines, best first, and are written best last; `earlier` are the
    turns of the conversation so far, `system` what the owner or a program asks of every answer, `key_line` stands
    between notes and question."""
    role = _WITH_NOTES if notes else _WITHOUT_NOTES
    if system.strip():
        role = f"{system.strip()}\n{role}" if notes else system.strip()
    if not notes:
        return [ChatMessage("system", role), *earlier, ChatMessage("user", question)]
    asked = f"{key_line}\n{question}" if key_line else question
    return [*beginning(role), *earlier, ChatMessage("user", _notes_and_question(tuple(reversed(notes)), asked))]


def beginning(role: str = _WITH_NOTES) -> list[ChatMessage]:
    """How every prompt with notes begins: the system prompt and the worked turns."""
    messages = [ChatMessage("system", role)]
    for worked_notes, worked_question, worked_answer in _WORKED_TURNS:
        messages += [
            ChatMessage("user", _notes_and_question(worked_notes, worked_question)),
            ChatMessage("assistant", worked_answer),
        ]
    return messages


def _notes_and_question(notes: Sequence[str], question: str) -> str:
    lines = "\n".join(f"- {note}" for note in notes)
    return f"Notes:\n{lines}\n\n{question}"
