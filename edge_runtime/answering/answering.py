"""From a question and what is remembered to an answer: retrieve, build the prompt, generate, say where it
came from.

The layout was chosen by trying a dozen on the bundled 135M model with 12 facts among distractors: 8 questions
came out right with the notes in a system prompt, 9 with the notes in the question's own turn, all 12 when
worked turns before it show how: take the note that matters, turn "my" into "your", and leave notes aside that
have nothing to do with the question. On 6 facts that had no part in the choice it answers 6. Few notes, the
best one last, right before the question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.sampling import Sampling
from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import Recalled

if TYPE_CHECKING:
    from edge_runtime.engine.engine import Engine

DEFAULT_MEMORIES: Final = 3
DEFAULT_ANSWER_TOKENS: Final = 160
# Greedy: what is remembered should be repeated the same way each time. A model this small then loops on its own words
# unless repeating costs something; the prompt's words, the remembered names among them, cost nothing.
DEFAULT_SAMPLING: Final = Sampling(temperature=0.0, repeat_penalty=1.1)

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
_NOTE_CHARACTERS = 400  # of one memory in a prompt; the rest of a long one is seldom about the question
_REMEMBER = re.compile(
    r"\s*(?:please[, ]+)?remember(?:,?\s+please,?)?[,:]?\s+that[,:]?\s+(?P<statement>\S.*)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Answer:
    """What the model said, and the memories it was shown, best first."""

    text: str
    sources: tuple[Recalled, ...]


@dataclass(frozen=True)
class AnswerStream:
    """An answer in the making: `sources` are known at once, `pieces` yields text as it is generated."""

    sources: tuple[Recalled, ...]
    pieces: Iterator[str]


@dataclass
class Conversation:
    """The turns of one chat, in RAM only: nothing of it is stored unless its owner says "remember that
    ..."."""

    turns: list[ChatMessage] = field(default_factory=list)

    def add(self, question: str, answer: str) -> None:
        """Notes a finished exchange."""
        self.turns += [ChatMessage("user", question), ChatMessage("assistant", answer)]

    def search_text(self, question: str) -> str:
        """What to look up for `question`: a follow-up like "and when?" means nothing without the question
        before it."""
        earlier = [turn.content for turn in self.turns if turn.role == "user"][-1:]
        return " ".join([*earlier, question]) if len(question.split()) <= 4 else question


def statement_to_remember(text: str) -> str | None:
    """The statement in "remember that ..." (also "please remember: that ..."), or None if `text` is something
    else."""
    found = _REMEMBER.fullmatch(text)
    return found["statement"].strip() if found else None


def build_messages(
    question: str, memories: Sequence[Recalled], profile: str = "", earlier: Sequence[ChatMessage] = ()
) -> list[ChatMessage]:
    """The chat for `question`. `memories` come best first and are written best last; `profile` is a line or
    two about the person; `earlier` are the turns of the conversation so far."""
    notes = [_note(recalled) for recalled in reversed(memories)]
    if profile.strip():
        notes = [profile.strip(), *notes]
    if not notes:
        return [ChatMessage("system", _WITHOUT_NOTES), *earlier, ChatMessage("user", question)]
    messages = [ChatMessage("system", _WITH_NOTES)]
    for worked_notes, worked_question, worked_answer in _WORKED_TURNS:
        messages += [
            ChatMessage("user", _notes_and_question(worked_notes, worked_question)),
            ChatMessage("assistant", worked_answer),
        ]
    return [*messages, *earlier, ChatMessage("user", _notes_and_question(notes, question))]


def stream_answer(
    engine: Engine,
    memory: Memory | None,
    question: str,
    *,
    k: int = DEFAULT_MEMORIES,
    max_tokens: int = DEFAULT_ANSWER_TOKENS,
    profile: str = "",
    conversation: Conversation | None = None,
    as_of: str | None = None,
    sampling: Sampling = DEFAULT_SAMPLING,
) -> AnswerStream:
    """Retrieves at once and generates while `pieces` is read. Without `memory` (or with k = 0) the model
    answers alone.

    Earlier turns are dropped, oldest first, until prompt and answer fit the engine's context.
    """
    conversation = conversation or Conversation()
    sources = tuple(memory.recall(conversation.search_text(question), k=k, as_of=as_of)) if memory and k else ()
    earlier = list(conversation.turns)
    room = engine.context_tokens - max_tokens
    while True:
        prompt = engine.tokenise(engine.chat_prompt(build_messages(question, sources, profile, earlier)))
        if len(prompt) <= room or not (earlier or sources):
            break
        if earlier:
            earlier = earlier[2:]
        else:
            sources = sources[:-1]  # the weakest
    pieces = engine.generate(prompt, max_tokens=max_tokens, sampling=sampling)
    return AnswerStream(sources, _without_leading_space(pieces))


def ask(
    engine: Engine,
    memory: Memory | None,
    question: str,
    *,
    k: int = DEFAULT_MEMORIES,
    max_tokens: int = DEFAULT_ANSWER_TOKENS,
    profile: str = "",
    as_of: str | None = None,
    sampling: Sampling = DEFAULT_SAMPLING,
) -> Answer:
    """The whole answer to one question, with its sources."""
    stream = stream_answer(
        engine, memory, question, k=k, max_tokens=max_tokens, profile=profile, as_of=as_of, sampling=sampling
    )
    return Answer("".join(stream.pieces).rstrip(), stream.sources)


def _note(recalled: Recalled) -> str:
    text = " ".join(recalled.item.text.split())  # one line per note
    return text if len(text) <= _NOTE_CHARACTERS else text[:_NOTE_CHARACTERS].rsplit(" ", 1)[0] + " ..."


def _notes_and_question(notes: Sequence[str], question: str) -> str:
    lines = "\n".join(f"- {note}" for note in notes)
    return f"Notes:\n{lines}\n\n{question}"


def _without_leading_space(pieces: Iterator[str]) -> Iterator[str]:
    started = False
    for piece in pieces:
        shown = piece if started else piece.lstrip()
        started = started or bool(shown)
        if shown:
            yield shown
