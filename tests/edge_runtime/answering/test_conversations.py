"""Chat history: stored whole and in order, never mistaken for memories, and forgotten by the exchange."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.answering.conversations import Conversations
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import decrypted_pages

KEY = bytes(range(32))


@pytest.fixture
def conversations(tmp_path: Path) -> Iterator[Conversations]:
    with Vault.open(tmp_path, KEY) as vault:
        yield Conversations(vault)


def audit(*candidates: tuple[str, bool], query: str = "") -> dict[str, object]:
    return {"query": query, "candidates": [{"id": id_, "kept": kept} for id_, kept in candidates]}


def never(_: str) -> bool:
    return False


def test_turns_come_back_in_order_and_after_reopening(tmp_path: Path) -> None:
    with Vault.open(tmp_path, KEY) as vault:
        first = Conversations(vault)
        chat = first.new()
        asked = first.add(chat, "user", "What is my dog called?")
        told = first.add(chat, "assistant", "Your dog is Bruno.", audit(("memory:1", True)))
    with Vault.open(tmp_path, KEY) as vault:
        again = Conversations(vault)
        assert again.turns(chat) == [asked, told] and again.turn(told.id) == told
        assert told.audit == {"query": "", "candidates": [{"id": "memory:1", "kept": True}]} and asked.audit is None
        assert asked.said_at <= told.said_at


def test_the_listing_names_the_latest_first_with_a_title(conversations: Conversations) -> None:
    old, empty, new = conversations.new(), conversations.new(), conversations.new()
    conversations.add(new, "user", "word " * 40)
    conversations.add(old, "user", "What is\nmy dog called?")
    conversations.add(old, "assistant", "Bruno.")
    rows = conversations.listing()
    assert {row.id for row in rows} == {old, empty, new} and rows[0].id == old
    by_id = {row.id: row for row in rows}
    assert by_id[old].title == "What is my dog called?" and by_id[old].turns == 2
    assert by_id[new].title.endswith("word ...") and len(by_id[new].title) < 70
    assert by_id[empty].title == "" and by_id[empty].turns == 0 and by_id[empty].last_at == by_id[empty].started_at


def test_only_what_the_user_said_waits_for_consolidation_and_once(conversations: Conversations) -> None:
    chat = conversations.new()
    one = conversations.add(chat, "user", "I moved to Lyon")
    conversations.add(chat, "assistant", "How nice.")
    two = conversations.add(chat, "user", "My cat is called Minou")
    assert conversations.unconsolidated() == [one, two]
    conversations.mark_consolidated([one.id])
    assert conversations.unconsolidated() == [two]
    conversations.mark_consolidated([])
    assert conversations.unconsolidated() == [two]


def test_what_does_not_exist_is_one_clear_error(conversations: Conversations) -> None:
    for call in (conversations.turns, conversations.delete, lambda id_: conversations.add(id_, "user", "x")):
        with pytest.raises(PenchantError, match="no such conversation"):
            call("nothing")
    with pytest.raises(PenchantError, match="no turn 7"):
        conversations.turn(7)
    with pytest.raises(PenchantError, match="user, assistant"):
        conversations.add(conversations.new(), "system", "x")


def test_an_answer_knows_its_question_and_the_memories_it_was_shown(conversations: Conversations) -> None:
    with pytest.raises(PenchantError, match="Nothing has been answered"):
        conversations.last_answer()
    chat, other = conversations.new(), conversations.new()
    asked = conversations.add(chat, "user", "What is my dog called?")
    conversations.add(other, "user", "Something else")
    told = conversations.add(
        chat, "assistant", "Bruno.", audit(("memory:1", True), ("memory:2", False), ("me:3", True))
    )
    assert conversations.last_answer() == told and conversations.question_of(told) == asked.text
    assert told.memory_ids == {1} and asked.memory_ids == frozenset()
    with pytest.raises(PenchantError, match="not an answer"):
        conversations.question_of(asked)


def test_deleting_takes_the_turns_and_leaves_the_others(conversations: Conversations) -> None:
    gone, kept = conversations.new(), conversations.new()
    lost = conversations.add(gone, "user", "one")
    conversations.add(kept, "user", "two")
    conversations.delete(gone)
    assert [row.id for row in conversations.listing()] == [kept]
    with pytest.raises(PenchantError, match="no turn"):
        conversations.turn(lost.id)
    assert [turn.text for turn in conversations.unconsolidated()] == ["two"]


def test_an_answer_that_rests_on_a_forgotten_memory_goes_with_its_question(conversations: Conversations) -> None:
    chat = conversations.new()
    conversations.add(chat, "user", "What is my dog called?")
    conversations.add(chat, "assistant", "He has a fine name.", audit(("memory:1", True), ("memory:2", False)))
    conversations.add(chat, "user", "Where is the key?")
    kept = conversations.add(chat, "assistant", "Under the pot.", audit(("memory:2", True), ("memory:1", False)))
    assert conversations.forget_traces([1], never) == 2
    turns = conversations.turns(chat)
    assert [turn.text for turn in turns] == ["Where is the key?", "Under the pot."]
    assert turns[1].id == kept.id and turns[1].audit == audit(("memory:2", True))  # struck, not lost
    assert conversations.forget_traces([11], never) == 0  # an id is not a prefix


@pytest.mark.parametrize("where", ["question", "answer", "audit"])
def test_an_exchange_that_repeats_the_words_goes_wherever_they_stand(
    conversations: Conversations, where: str, tmp_path: Path
) -> None:
    def words(place: str) -> str:
        return "about Zebulon" if place == where else "nothing"

    chat, other = conversations.new(), conversations.new()
    conversations.add(chat, "user", f"Tell me {words('question')}")
    conversations.add(chat, "assistant", f"I say {words('answer')}", audit(query=words("audit")))
    conversations.add(other, "user", "Unrelated")
    assert conversations.forget_traces([], lambda text: "Zebulon" in text) == 2
    assert [row.id for row in conversations.listing()] == [other]  # the empty one goes
    conversations._vault.sweep_log()
    assert b"Zebulon" not in decrypted_pages(tmp_path, KEY)


def test_forgetting_everything_leaves_nothing(conversations: Conversations, tmp_path: Path) -> None:
    chat = conversations.new()
    conversations.add(chat, "user", "Zebulon is my uncle")
    conversations.add(chat, "assistant", "Zebulon it is.")
    assert conversations.forget_all() == 2 and conversations.listing() == []
    conversations._vault.sweep_log()
    assert b"Zebulon" not in decrypted_pages(tmp_path, KEY)
