from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.memory.entities import Entities
from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import Statement
from edge_runtime.store.vault import Vault
from tests.edge_runtime.memory_helpers import HashingEmbedder, decrypted_pages

_KEY = b"k" * 32


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault.open(tmp_path, _KEY) as vault:
        yield vault


def _remember(vault: Vault, *statements: Statement) -> Memory:
    memory = Memory(vault, HashingEmbedder())
    memory.remember_many(statements)
    return memory


def test_entities_are_counted_with_kinds_and_memories(vault: Vault) -> None:
    memory = _remember(
        vault,
        Statement("I live in Lyon and my cat is called Minou.", said_at="2025-01-01"),
        Statement("Took Minou to the vet with Anton.", said_at="2025-02-01"),
        Statement("I love jazz.", said_at="2025-02-02"),
    )
    entities = Entities(vault)
    assert entities.observe(memory.items()) == 5
    by_name = {entity.name: entity for entity in entities.top(10, "2025-02-02")}
    assert {name: entity.kind for name, entity in by_name.items()} == {
        "Lyon": "place", "Minou": "pet", "Anton": "name", "jazz": "interest"
    }  # fmt: skip
    assert by_name["Minou"].count == 2 and by_name["Minou"].last_seen == "2025-02-01"
    assert by_name["Minou"].memory_ids == (1, 2)


def test_observing_again_counts_nothing_twice(vault: Vault) -> None:
    memory = _remember(vault, Statement("I love jazz.", said_at="2025-01-01"))
    entities = Entities(vault)
    assert entities.observe(memory.items()) == 1
    assert entities.observe(memory.items()) == 0


def test_recent_interests_come_before_old_ones(vault: Vault) -> None:
    old = [Statement(f"I love chess{tail}", said_at=f"2023-01-0{day}") for day, tail in ((1, "."), (2, "!"), (3, "!!"))]
    memory = _remember(vault, *old, Statement("I love jazz.", said_at="2025-01-01"))
    entities = Entities(vault)
    entities.observe(memory.items())
    assert [entity.name for entity in entities.top(2, "2023-02-01")] == ["chess"]
    assert [entity.name for entity in entities.top(2, "2025-01-02")] == ["jazz", "chess"]


def test_a_plain_noun_needs_three_memories(vault: Vault) -> None:
    texts = ("Fired the kiln today.", "Opened the kiln.", "Fixed the kiln, then the fence.")
    memory = _remember(vault, *(Statement(text, said_at="2025-01-01") for text in texts))
    entities = Entities(vault)
    entities.observe(memory.items())
    assert [entity.name for entity in entities.top(5)] == ["kiln"]


def test_a_question_finds_the_entities_it_names(vault: Vault) -> None:
    memory = _remember(vault, Statement("I live in Lyon.", said_at="2025-01-01"), Statement("I love jazz."))
    entities = Entities(vault)
    entities.observe(memory.items())
    assert [entity.name for entity in entities.for_question("Any JAZZ tonight?")] == ["jazz"]
    assert entities.for_question("What is a jazzman?") == []


def test_other_peoples_words_and_documents_are_left_out(vault: Vault) -> None:
    memory = _remember(
        vault,
        Statement("I love Verdi.", speaker="Ana", kind="passage", document="chat"),
        Statement("Wagner wrote operas for Bayreuth.", kind="passage", document="book"),
    )
    assert Entities(vault).observe(memory.items()) == 0


def test_the_store_holds_names_and_no_sentences(tmp_path: Path) -> None:
    with Vault.open(tmp_path, _KEY) as vault:
        entities = Entities(vault)
        item = _remember(vault, Statement("I love jazz because of zanzibarian trumpets.")).items()[0]
        entities.observe([item])
        vault.connection.execute("DELETE FROM memory_vectors")
        vault.connection.execute("DELETE FROM memories")
        vault.sweep_log()
    assert b"jazz" in decrypted_pages(tmp_path, _KEY)
    assert b"zanzibarian" not in decrypted_pages(tmp_path, _KEY)


def test_forgetting_drops_what_only_these_memories_mention(vault: Vault) -> None:
    memory = _remember(vault, Statement("I love jazz."), Statement("I love jazz and chess.", said_at="2025-01-01"))
    entities = Entities(vault)
    entities.observe(memory.items())
    chess = next(item.id for item in memory.items() if "chess" in item.text)
    assert entities.forget_traces([chess], lambda _: False) == 1
    assert [(entity.name, entity.count) for entity in entities.top(5)] == [("jazz", 1)]
    assert entities.forget_traces([], lambda text: "jazz" in text) == 1
    assert entities.top(5) == []


def test_forgetting_everything(vault: Vault) -> None:
    entities = Entities(vault)
    entities.observe(_remember(vault, Statement("I love jazz and chess.")).items())
    assert entities.forget_all() == 2
    assert vault.connection.execute("SELECT count(*) FROM entity_mentions").fetchone() == (0,)
