"""The prompt of an answer: notes, worked turns, question; and what counts as a wish to remember."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from edge_runtime.answering.answering import build_messages, lay_out, statement_to_remember
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.memory.statements import MemoryItem, Recalled


def recalled(item_id: int, text: str) -> Recalled:
    return Recalled(MemoryItem(item_id, text, "", "2025-01-01", "me", ""), 1.0 / item_id, {"bm25": item_id}, None)


class RecordingEngine:
    """Stands where an Engine stands; a token is a word. Keeps the last prompt, answers with fixed pieces."""

    context_tokens = 400
    active_adapters = ()

    class model:  # noqa: N801 - stands for an attribute
        name, sha256 = "tiny", "ab" * 32

    def __init__(self) -> None:
        self.prompt, self.max_tokens = "", 0
        self.kept: list[list[str]] = []  # prefixes on disk

    def chat_prompt(self, messages: Sequence[ChatMessage], *, continue_assistant: bool = True) -> str:
        return "\n".join(f"<{message.role}> {message.content}" for message in messages)

    def tokenise(self, text: str, *, special: bool = True) -> list[str]:
        return text.split(" ")

    def save_prefix(self, store: object, tokens: list[str]) -> bool:
        self.kept.append(tokens)
        return True

    def restore_prefix(self, store: object, tokens: list[str]) -> int:
        return len(tokens) if tokens in self.kept else 0

    def generate(
        self,
        prompt: list[str],
        *,
        max_tokens: int,
        sampling: object,
        lookup: bool = False,
        soft_prefix: object = None,
    ) -> Iterator[str]:
        self.prompt, self.max_tokens = " ".join(prompt), max_tokens
        yield from ("\n", " You", "r dog", " is Bruno. ")


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        ("remember that my dog is called Bruno", "my dog is called Bruno"),
        ("Remember that: I am allergic to walnuts.", "I am allergic to walnuts."),
        ("  please remember, that Ines lives in Lisbon ", "Ines lives in Lisbon"),
        ("Please remember that\nline one\nline two", "line one\nline two"),
        ("Do you remember that my dog is ill?", None),
        ("remember that", None),
        ("I remember that day", None),
        ("remember thatched roofs", None),
    ],
)
def test_what_counts_as_a_wish_to_remember(text: str, statement: str | None) -> None:
    assert statement_to_remember(text) == statement


def test_the_best_memory_stands_last_before_the_question() -> None:
    messages = build_messages("What now?", [recalled(1, "best\nof all"), recalled(2, "second"), recalled(3, "third")])
    assert messages[0].role == "system"
    assert messages[-1] == ChatMessage("user", "Notes:\n- third\n- second\n- best of all\n\nWhat now?")
    assert [message.role for message in messages[1:]] == ["user", "assistant"] * 4 + ["user"]


def test_long_memories_are_cut_to_what_the_question_is_about() -> None:
    long = f"{'Nothing of note happened. ' * 30}Bruno ate a sandwich. {'It rained. ' * 30}"
    last = build_messages("What did Bruno eat?", [recalled(1, long)])[-1].content
    assert "Bruno ate a sandwich." in last and len(last) < 350


def test_without_notes_there_are_no_worked_turns() -> None:
    messages = build_messages("Why is the sky blue?", [])
    assert [message.role for message in messages] == ["system", "user"]
    assert messages[-1].content == "Why is the sky blue?" and "notes" not in messages[0].content.lower()


def test_what_is_the_same_for_every_question_comes_first() -> None:
    """So that the engine computes it once: two prompts share everything up to the earlier turns."""
    earlier = [ChatMessage("user", "Hello"), ChatMessage("assistant", "Hi.")]
    one, two = lay_out("One?", ["a note"]), lay_out("Two?", ["b", "c"], earlier=earlier, key_line="Key words: b")
    shared = len(one) - 1
    assert shared == 9 and one[:shared] == two[:shared]
    assert two[shared:] == [*earlier, ChatMessage("user", "Notes:\n- c\n- b\n\nKey words: b\nTwo?")]


def test_a_system_text_of_the_owner_stands_before_ours() -> None:
    assert lay_out("Q?", [], system=" Be brief. ")[0] == ChatMessage("system", "Be brief.")
    with_notes = lay_out("Q?", ["n"], system="Be brief.")[0].content
    assert with_notes.startswith("Be brief.\n") and "notes" in with_notes
