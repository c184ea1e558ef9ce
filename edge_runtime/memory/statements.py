"""What goes into a memory and what comes out of it: the records, and the checks every text passes.

A *statement* is what the owner said about themself, a *passage* a part of a document or chat that they brought in. A
`speaker` other than "" is another person, whose words are never the owner's attributes.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Final, Literal, get_args

from protocol.errors import PenchantError

MAXIMUM_CHARACTERS: Final = 20_000
Kind = Literal["statement", "passage"]
KINDS: Final = get_args(Kind)
_MODEL_SOURCES = frozenset({"assistant", "model", "system", "tool"})


@dataclass(frozen=True)
class Statement:
    """Something to remember. `said_at` is an ISO date, today if None; `cue` what it answered; `document` a stable id of
    the document or chat it belongs to ("" none), `position` its place there."""

    text: str
    cue: str = ""
    said_at: str | None = None
    source: str = "me"
    kind: Kind = "statement"
    speaker: str = ""
    document: str = ""
    position: int = 0


@dataclass(frozen=True)
class MemoryItem:
    """A stored memory; `said_at` is an ISO date, `recorded_at` an ISO time in UTC. It holds from `said_at` until the
    day before `valid_until` (None: still). Ids are never used twice."""

    id: int
    text: str
    cue: str
    said_at: str
    source: str
    recorded_at: str
    kind: Kind = "statement"
    speaker: str = ""
    document: str = ""
    position: int = 0
    valid_until: str | None = None


@dataclass(frozen=True)
class Recalled:
    """A memory found for a query: its score (ranking.py), its rank in each ranking among what is relevant, and its
    cosine if a dense search was made."""

    item: MemoryItem
    score: float
    ranks: dict[str, int]
    similarity: float | None


def checked(statement: Statement) -> Statement:
    """`statement` with clean text and a full date; PenchantError if it cannot be remembered."""
    if statement.source.lower() in _MODEL_SOURCES:
        raise PenchantError("Only what the owner said or wrote is remembered, not what a model said.")
    if statement.kind not in KINDS:
        raise PenchantError(f"A memory is one of {', '.join(KINDS)}.")
    return replace(
        statement,
        text=checked_text(statement.text),
        cue=checked_text(statement.cue) if statement.cue else "",
        said_at=iso_date(statement.said_at),
        speaker=" ".join(statement.speaker.split()),
    )


def statement_digest(statement: Statement) -> bytes:
    """What makes a memory the same as another: text, cue and who said it; for a passage its place too, since people
    say "Thanks!" more than once in a chat."""
    texts = [statement.text, statement.cue]
    if statement.kind == "passage":
        texts += [statement.speaker, statement.document, str(statement.position)]
    elif statement.speaker:
        texts.append(statement.speaker)
    return content_digest(*texts)


def checked_text(text: str) -> str:
    """`text` without surrounding space; PenchantError if it is empty, too long or not Unicode."""
    text = text.strip()
    if not text:
        raise PenchantError("There is nothing to remember: the text is empty.")
    if len(text) > MAXIMUM_CHARACTERS:
        raise PenchantError(f"A memory has at most {MAXIMUM_CHARACTERS} characters; split the text.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise PenchantError("The text is not valid Unicode.") from None
    return text.replace("\x00", "")


def iso_date(text: str | None) -> str:
    """The date of an ISO date or time; today for None."""
    if text is None:
        return date.today().isoformat()
    try:
        return datetime.fromisoformat(text).date().isoformat()
    except ValueError:
        raise PenchantError("A date is written YYYY-MM-DD, like 2025-03-14.") from None


def content_digest(*texts: str) -> bytes:
    """SHA-256 (32 bytes) that is equal for texts equal up to case, spacing and Unicode compatibility form."""
    canonical = [" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts]
    return hashlib.sha256("\x00".join(canonical).encode("utf-8")).digest()


def embedded_text(text: str, cue: str) -> str:
    """What the vector of a memory stands for."""
    return f"{cue}\n{text}" if cue else text


def utc_now() -> str:
    """ISO time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
