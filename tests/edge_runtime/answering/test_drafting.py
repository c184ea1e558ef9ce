"""The chat that drafts a message: whose words stand in it, in which order, and what fills up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edge_runtime.answering.drafting import DEFAULT_CUE, build_draft, plain_draft
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.memory.statements import MemoryItem, Recalled

REQUEST = "Tell Ines about the kiln"


def recalled(number: int, *, cue: str = "") -> Recalled:
    return Recalled(
        MemoryItem(number, f"my message {number}", cue, "2025-01-01", "me", ""), 1.0 / number, {"bm25": number}, None
    )


def turns(messages: Sequence[ChatMessage]) -> list[tuple[str, str]]:
    """(request, reply) of every finished exchange."""
    between = messages[1:-1]
    assert [message.role for message in between] == ["user", "assistant"] * (len(between) // 2)
    return [(asked.content, said.content) for asked, said in zip(between[::2], between[1::2], strict=True)]


@pytest.mark.parametrize("count", range(5))
def test_every_draft_begins_with_the_role_and_ends_with_the_request(count: int) -> None:
    messages = build_draft(REQUEST, [recalled(number + 1) for number in range(count)])
    assert messages[0].role == "system" and messages[-1] == ChatMessage("user", REQUEST)
    assert sum(message.role == "system" for message in messages) == 1


def test_the_best_message_stands_last_right_before_the_request() -> None:
    found = [recalled(1, cue="the best"), recalled(2, cue="the second"), recalled(3, cue="the third")]
    assert turns(build_draft(REQUEST, found)) == [
        ("the third", "my message 3"),
        ("the second", "my message 2"),
        ("the best", "my message 1"),
    ]


def test_a_message_without_a_cue_gets_the_default_one() -> None:
    assert turns(build_draft(REQUEST, [recalled(1), recalled(2, cue="asked")])) == [
        ("asked", "my message 2"),
        (DEFAULT_CUE, "my message 1"),
    ]


def test_worked_turns_fill_up_before_the_owners_own() -> None:
    worked = turns(build_draft(REQUEST))
    assert len(worked) == 2 and not any("my message" in reply for _, reply in worked)
    one = turns(build_draft(REQUEST, [recalled(1)]))
    assert one == [worked[0], (DEFAULT_CUE, "my message 1")]
    two = turns(build_draft(REQUEST, [recalled(1), recalled(2)]))
    assert len(two) == 2 and not set(two) & set(worked)


def test_what_is_told_as_a_reply_is_the_owners_or_a_worked_turn_and_no_models() -> None:
    """Model text never enters: the memory refuses it, and a draft takes replies from the memory alone."""
    worked = {reply for _, reply in turns(build_draft(REQUEST))}
    found = [recalled(1), recalled(2), recalled(3)]
    replies = {message.content for message in build_draft(REQUEST, found) if message.role == "assistant"}
    assert replies - worked == {one.item.text for one in found}


def test_the_short_form_is_the_same_chat_without_turns() -> None:
    full = build_draft(REQUEST, [recalled(1)])
    assert plain_draft(REQUEST) == [full[0], full[-1]]


def test_a_summary_of_how_the_owner_writes_joins_the_role() -> None:
    plain, told = build_draft(REQUEST), build_draft(REQUEST, summary=" Messages of 12 words. ")
    assert told[0].content == f"{plain[0].content} Messages of 12 words." and told[1:] == plain[1:]
