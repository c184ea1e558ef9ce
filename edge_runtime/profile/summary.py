"""Summaries of a profile for a task, written offline: plain lines from the attributes and from statistics of the
owner's messages, and, where the small model manages it, its wording of them.

A model of 135M parameters invents. Its sentence enters only if each of its clauses rests on one line of the
evidence: all telling words stand in that line and the number of negations is the same. Lines that no admitted
sentence covers are added as they are; if none is admitted, or without an engine, the plain lines stand. So every
word of a summary comes from the evidence, and a rebuild after a forget leaves nothing behind. (Offline task-aware
summaries beside retrieval: Richardson et al. 2023, arXiv:2310.20081; statistics instead of a model's words where
the task is statistical.)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING, Final, Literal, Protocol

from edge_runtime.memory.statements import utc_now
from edge_runtime.profile.wording import IMPORTANCE, sentence_of, words_of
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError

if TYPE_CHECKING:
    from edge_runtime.engine.engine import Engine

Writer = Literal["you", "model", "statistics"]
SUMMARY_TASKS: Final = ("general", "drafting")
SUMMARY_STEPS: Final = (
    "CREATE TABLE profile_summaries (task TEXT PRIMARY KEY, text TEXT NOT NULL, written_at TEXT NOT NULL, "
    "writer TEXT NOT NULL, memory_ids TEXT NOT NULL, basis BLOB NOT NULL) WITHOUT ROWID",
    # how the owner writes, counted at the last rebuild: sentences with numbers in them and none of the owner's words
    "CREATE TABLE profile_style (position INTEGER PRIMARY KEY, line TEXT NOT NULL)",
)
_MOST_LINES: Final = 12
_MOST_VALUES: Final = 5  # of one attribute in a line
_ANSWER_TOKENS: Final = 160
_LEAST_MESSAGES: Final = 5  # for statistics of style
_NEGATION = re.compile(r"\b(?:not|no|never|without|nor|neither|none)\b")
_SYSTEM = "You join a person's notes into a short text. You use only what the notes say."
_WORKED: Final = (
    ("My name is Ines.", "I live in Porto.", "I like chess and rain.", "I do not eat meat."),
    "My name is Ines and I live in Porto. I like chess and rain, and I do not eat meat.",
)
_EMOJI = re.compile(r"[\U0001f300-\U0001faff\u2600-\u27bf]")


@dataclass(frozen=True)
class Line:
    """One line of evidence for a summary and the memories behind it."""

    text: str
    memory_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Summary:
    """A stored summary; `by` is "you", "model" (its sentences, checked) or "statistics" (the plain lines), `stale`
    whether the profile has changed since. `written_at` is an ISO time in UTC."""

    task: str
    text: str
    written_at: str
    by: Writer
    memory_ids: tuple[int, ...]
    stale: bool


class _Attribute(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def probability(self) -> float: ...
    @property
    def memory_ids(self) -> tuple[int, ...]: ...


class Summaries:
    """The stored summaries of a profile, one per task."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def get(self, task: str, lines: Sequence[Line]) -> Summary | None:
        """The summary for `task`; stale if it was written from other lines than `lines`."""
        row = self._vault.connection.execute(
            "SELECT text, written_at, writer, memory_ids, basis FROM profile_summaries WHERE task = ?", (task,)
        ).fetchone()
        if row is None:
            return None
        text, written_at, by, memory_ids, basis = row
        stale = by != "you" and bytes(basis) != _digest(lines)
        return Summary(task, text, written_at, by, tuple(json.loads(memory_ids)), stale)

    def put(self, task: str, text: str, by: Writer, memory_ids: Collection[int], lines: Sequence[Line]) -> Summary:
        """Stores the summary for `task`, written from `lines`, in place of the one that was there."""
        ids = tuple(sorted(set(memory_ids)))
        written_at = utc_now()
        self._vault.connection.execute(
            "INSERT OR REPLACE INTO profile_summaries VALUES (?, ?, ?, ?, ?, ?)",
            # the owner's own text was written from nothing, and a digest of what it stood beside would outlive it
            (task, text, written_at, by, json.dumps(ids), b"" if by == "you" else _digest(lines)),
        )
        return Summary(task, text, written_at, by, ids, stale=False)

    def drop(self, task: str) -> bool:
        """Removes the summary for `task`; whether there was one."""
        return self._vault.connection.execute("DELETE FROM profile_summaries WHERE task = ?", (task,)).rowcount > 0

    def note_style(self, messages: Sequence[str]) -> None:
        """Counts again how the owner writes."""
        lines = style_lines(messages)
        if lines != [line.text for line in self.lines((), "drafting")]:
            self._vault.connection.execute("DELETE FROM profile_style")
            self._vault.connection.executemany(
                "INSERT INTO profile_style (line) VALUES (?)", [(line,) for line in lines]
            )

    def lines(self, attributes: Iterable[_Attribute], task: str) -> list[Line]:
        """The evidence for a summary for `task`, most important first; PenchantError for an unknown task."""
        if task == "general":
            return attribute_lines(attributes)
        if task == "drafting":
            return [
                Line(text)
                for (text,) in self._vault.connection.execute("SELECT line FROM profile_style ORDER BY position")
            ]
        raise PenchantError(f"There is no such summary; the tasks are {', '.join(SUMMARY_TASKS)}.")

    def forget_traces(self, forgotten: Collection[int], is_trace: Callable[[str], bool]) -> int:
        """Removes the summaries that used one of these memories or repeat their words, and the statistics (a rebuild
        counts again); how many summaries."""
        self._vault.connection.execute("DELETE FROM profile_style")
        rows = self._vault.connection.execute("SELECT task, text, memory_ids FROM profile_summaries").fetchall()
        doomed = [task for task, text, ids in rows if set(json.loads(ids)) & set(forgotten) or is_trace(text)]
        return sum(self.drop(task) for task in doomed)


def attribute_lines(attributes: Iterable[_Attribute]) -> list[Line]:
    """One first-person line per attribute name with its likeliest values, in the order of `IMPORTANCE`."""
    place = {name: index for index, name in enumerate(IMPORTANCE)}
    ordered = sorted(
        attributes, key=lambda each: (place.get(each.name, len(place)), each.name, -each.probability, each.value)
    )
    lines = []
    for name, group in groupby(ordered, key=lambda each: each.name):
        chosen = list(group)[:_MOST_VALUES]
        if name in ("habit", "plans"):  # whole verb phrases
            lines += [Line(sentence_of(name, each.value), each.memory_ids) for each in chosen]
            continue
        ids = tuple(sorted({memory_id for each in chosen for memory_id in each.memory_ids}))
        lines.append(Line(sentence_of(name, _listed([each.value for each in chosen])), ids))
    return lines[:_MOST_LINES]


def style_lines(messages: Sequence[str]) -> list[str]:
    """How the messages are written, in sentences made of counts: length, sentences, marks, emoji, lower case, lists."""
    if len(messages) < _LEAST_MESSAGES:
        return []
    sentences = [part for message in messages for part in re.split(r"(?<=[.!?])\s+|\n+", message) if part.strip()]
    lines = [
        f"Messages have about {round(median(len(message.split()) for message in messages))} words.",
        f"Sentences have about {round(median(len(sentence.split()) for sentence in sentences))} words.",
    ]
    for what, holds in (
        ("exclamation marks", lambda message: "!" in message),
        ("questions", lambda message: "?" in message),
        ("emoji", lambda message: _EMOJI.search(message) is not None),
        ("lists", lambda message: re.search(r"(?m)^\s*(?:[-*•]|\d+[.)])\s", message) is not None),
        ("a beginning in lower case", lambda message: message.lstrip()[:1].islower()),
    ):
        share = round(100 * sum(map(holds, messages)) / len(messages))
        lines.append(f"{share} of 100 messages have {what}.")
    return lines


def write_summary(engine: Engine | None, lines: Sequence[Line], task: str) -> tuple[str, Writer, tuple[int, ...]]:
    """The text of a summary of `lines`, who wrote it, and the memories it rests on. Statistics are not reworded."""
    plain = " ".join(line.text for line in lines)
    ids = tuple(sorted({memory_id for line in lines for memory_id in line.memory_ids}))
    if engine is None or task != "general":
        return plain, "statistics", ids
    admitted: list[str] = []
    covered: set[int] = set()
    for sentence in _sentences(_generate(engine, lines)):
        grounds = grounds_of(sentence, lines)
        if grounds and not grounds <= covered:
            admitted.append(sentence)
            covered |= grounds
    if not admitted:
        return plain, "statistics", ids
    rest = [line.text for index, line in enumerate(lines) if index not in covered]
    return " ".join([*admitted, *rest]), "model", ids


def grounds_of(sentence: str, lines: Sequence[Line]) -> set[int]:
    """The positions of the lines that `sentence` says in full, one for each of its clauses; empty if a clause says
    more, or less, than one line does."""
    grounds: set[int] = set()
    for clause in re.split(r"[,;]?\s+(?:and|but)\s+(?=(?:I|my)\b)|[,;]\s+(?=(?:I|my)\b)", sentence):
        said = _said(clause)
        for index, line in enumerate(lines):
            if said[0] and said == _said(line.text):
                grounds.add(index)
                break
        else:
            return set()
    return grounds


def _said(text: str) -> tuple[set[str], int]:
    """The telling words of a clause and how often it denies."""
    text = re.sub(r"n['’]t\b", " not", text.lower())
    denials = len(_NEGATION.findall(text))
    return words_of(_NEGATION.sub(" ", text)), denials


def _generate(engine: Engine, lines: Sequence[Line]) -> str:
    from edge_runtime.engine.chat_template import ChatMessage
    from edge_runtime.engine.sampling import Sampling  # llama.cpp: not for those who only open a profile

    worked_lines, worked_text = _WORKED
    messages = [
        ChatMessage("system", _SYSTEM),
        ChatMessage("user", _request(worked_lines)),
        ChatMessage("assistant", worked_text),
        ChatMessage("user", _request([line.text for line in lines])),
    ]
    tokens = engine.tokenise(engine.chat_prompt(messages), special=True)
    sampling = Sampling(temperature=0.0, repeat_penalty=1.1)
    return "".join(engine.generate(tokens, max_tokens=_ANSWER_TOKENS, sampling=sampling))


def _request(notes: Sequence[str]) -> str:
    return "Notes:\n" + "\n".join(f"- {note}" for note in notes) + "\nJoin the notes."


def _sentences(text: str) -> list[str]:
    """The whole sentences of a text; a last one that was cut off is left out."""
    return [part.strip() for part in re.findall(r"[^.!?\n]+[.!?](?=\s|$)", text) if part.strip()]


def _listed(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}"


def _digest(lines: Sequence[Line]) -> bytes:
    return hashlib.sha256("\n".join(line.text for line in lines).encode()).digest()
