"""From the short-term buffer to long-term memory: what the owner said in chats becomes memories, sentence by sentence.

Only sentences of the user's turns that make a claim about the owner or one of their people are kept, never a whole
turn, a question, or a word of the model's. A sentence that repeats what was shown in the conversation (an answer, a
recalled memory) or that says what is known already is dropped: a memory that feeds on its own output fills up with
copies (the commonest complaint about memory layers). Running twice stores nothing twice. (Short- and long-term
memory with consolidation: "Memory-Augmented LLM Personalization with Short- and Long-Term Memory Coordination".)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from edge_runtime.memory.claims import Claim, claims_of, sentences_with_claims
from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import Statement, iso_date
from protocol.errors import PenchantError

CHAT_SOURCE: Final = "chat"
_SHORT: Final = 3  # a repeated sentence of fewer words is no copy ("I like tea." may be said by anybody)


class ChatTurn(Protocol):
    """A turn of a conversation: `role` is "user" or "assistant"; an answer's `audit` names what it was shown."""

    @property
    def id(self) -> int: ...
    @property
    def conversation(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def said_at(self) -> str: ...
    @property
    def audit(self) -> dict[str, Any] | None: ...


class ChatHistory(Protocol):
    """What consolidation needs of `answering.conversations.Conversations`."""

    def unconsolidated(self) -> Sequence[ChatTurn]: ...
    def turns(self, conversation: str) -> Sequence[ChatTurn]: ...
    def mark_consolidated(self, turn_ids: Collection[int]) -> None: ...


class Rebuilt(Protocol):
    """What consolidation needs of a profile."""

    def rebuild(self, memory: Memory) -> int: ...


@dataclass(frozen=True)
class Consolidated:
    """How many sentences became memories, and how many made a claim but were dropped as copies or as known."""

    stored: int
    dropped: int


def consolidate(conversations: ChatHistory, memory: Memory, profile: Rebuilt) -> Consolidated:
    """Looks through every turn that nobody has looked through yet; the profile is rebuilt if anything is new."""
    turns = [turn for turn in conversations.unconsolidated() if turn.role == "user"]
    known = _known_claims(memory) if turns else set()
    people = {claim.value for claim in known if claim.attribute.endswith("'s name")}
    statements: list[Statement] = []
    dropped = 0
    for turn in turns:
        shown = _shown_before(turn, conversations.turns(turn.conversation), memory)
        for sentence, claims in sentences_with_claims(turn.text):
            people |= {claim.value for claim in claims if claim.attribute.endswith("'s name")}
            wanted = [claim for claim in claims if _is_ours(claim, people)]
            if not wanted:
                continue
            if _is_copy(sentence, shown) or known.issuperset(wanted):
                dropped += 1
                continue
            statements.append(Statement(sentence, said_at=iso_date(turn.said_at), source=CHAT_SOURCE))
            known.update(wanted)
    before = len(memory)
    memory.remember_many(statements)
    conversations.mark_consolidated([turn.id for turn in turns])
    stored = len(memory) - before
    if stored:
        profile.rebuild(memory)
    return Consolidated(stored, dropped + len(statements) - stored)


def _known_claims(memory: Memory) -> set[Claim]:
    """What valid memories of the owner's own words say."""
    items = (item for item in memory.items(kinds=("statement",)) if not item.speaker and item.valid_until is None)
    return {claim for item in items for claim in claims_of(item.text)}


def _is_ours(claim: Claim, people: set[str]) -> bool:
    """Whether a claim is about the owner, a relation, or a person whom the owner has named as one."""
    return not claim.subject or claim.subject.startswith("my ") or claim.subject in people


def _shown_before(turn: ChatTurn, conversation: Iterable[ChatTurn], memory: Memory) -> str:
    """Everything that the conversation had shown before `turn`, in canonical form: the answers, and the memories and
    profile lines that their audits name."""
    texts: list[str] = []
    for other in conversation:
        if other.id < turn.id and other.role != "user":
            audit = other.audit or {}
            texts += [other.text, *(str(line.get("text", "")) for line in audit.get("profile", ()))]
            texts += [_text_of(str(candidate.get("id", "")), memory) for candidate in audit.get("candidates", ())]
    return _canonical("\n".join(texts))


def _text_of(source: str, memory: Memory) -> str:
    """The text of the source "memory:12"; empty for another kind of source or one that was forgotten since."""
    number = source.removeprefix("memory:")
    if not number.isdigit():
        return ""
    try:
        return memory.item(int(number)).text
    except PenchantError:
        return ""


def _is_copy(sentence: str, shown: str) -> bool:
    words = _canonical(sentence)
    return len(words.split()) > _SHORT and f" {words} " in f" {shown} "


def _canonical(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))
