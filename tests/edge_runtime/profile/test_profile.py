from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import Statement
from edge_runtime.profile.profile import Profile
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import HashingEmbedder, decrypted_pages

_KEY = b"k" * 32


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault.open(tmp_path, _KEY) as vault:
        yield vault


@pytest.fixture
def memory(vault: Vault) -> Memory:
    return Memory(vault, HashingEmbedder())


@pytest.fixture
def profile(vault: Vault) -> Profile:
    return Profile(vault)


def _say(memory: Memory, *dated: tuple[str, str]) -> None:
    memory.remember_many([Statement(text, said_at=day) for day, text in dated])


def _values(profile: Profile, name: str, as_of: str | None = None) -> list[str]:
    return [found.value for found in profile.attributes(as_of) if found.name == name]


def test_attributes_are_read_from_memories_with_times_and_sources(profile: Profile, memory: Memory) -> None:
    _say(memory, ("2024-01-01", "I live in Paris."), ("2025-03-01", "I moved to Lyon."), ("2025-04-01", "I love jazz."))
    assert profile.rebuild(memory) == 3
    lyon, paris = (found for found in profile.attributes() if found.name == "lives_in")
    assert (lyon.value, lyon.since, lyon.until, lyon.source) == ("Lyon", "2025-03-01", None, "memory")
    assert (paris.value, paris.since, paris.until) == ("Paris", "2024-01-01", "2025-03-01")
    assert [memory.item(number).text for number in lyon.memory_ids] == ["I moved to Lyon."]
    assert lyon.probability > 0.5 > paris.probability


def test_as_of_shows_what_held_and_was_known_then(profile: Profile, memory: Memory) -> None:
    _say(memory, ("2024-01-01", "I live in Paris."), ("2025-03-01", "I moved to Lyon."))
    profile.rebuild(memory)
    assert _values(profile, "lives_in", "2023-12-31") == []
    assert _values(profile, "lives_in", "2024-06-01") == ["Paris"]
    assert _values(profile, "lives_in", "2025-03-01") == ["Lyon"]


def test_a_rebuild_is_repeatable_and_keeps_ids(profile: Profile, memory: Memory) -> None:
    _say(memory, ("2024-01-01", "I live in Paris."), ("2025-04-01", "I love jazz and chess."))
    profile.rebuild(memory)
    before = profile.attributes()
    profile.rebuild(memory)
    assert profile.attributes() == before


def test_other_peoples_facts_and_words_make_no_attributes(profile: Profile, memory: Memory) -> None:
    memory.remember_many(
        [
            Statement("My brother lives in Rome and likes golf."),
            Statement("I live in Oslo.", speaker="Ana", kind="passage", document="chat"),
            Statement("I live in Riga.", kind="passage", document="book"),
        ]
    )
    assert profile.rebuild(memory) == 0


def test_the_owners_entry_stands_and_closes_what_it_contradicts(profile: Profile, memory: Memory) -> None:
    _say(memory, ("2024-01-01", "I live in Paris."))
    profile.rebuild(memory)
    entered = profile.set_attribute("lives_in", "Rome")
    assert (entered.probability, entered.source, entered.until) == (1.0, "you", None)
    profile.rebuild(memory)
    today = date.today().isoformat()
    assert [(found.id, found.value, found.until) for found in profile.attributes()] == [
        (entered.id, "Rome", None),
        (1, "Paris", today),
    ]


def test_a_later_statement_closes_an_entry_and_forgetting_it_opens_the_entry(profile: Profile, memory: Memory) -> None:
    entered = profile.set_attribute("lives_in", "Rome")
    item = memory.remember("I moved to Bonn.", said_at="2999-01-01")
    profile.rebuild(memory)
    assert profile.attribute(entered.id).until == "2999-01-01"
    profile.forget_traces([item.id], lambda text: "Bonn" in text)
    memory_without = Memory(memory._vault, HashingEmbedder())
    memory._vault.connection.execute("DELETE FROM memory_vectors")
    memory._vault.connection.execute("DELETE FROM memories")
    profile.rebuild(memory_without)
    assert [(found.value, found.until) for found in profile.attributes()] == [("Rome", None)]


def test_entering_the_same_twice_is_one_entry(profile: Profile) -> None:
    profile.set_attribute("likes", "tea")
    profile.set_attribute("likes", "Tea")
    profile.set_attribute("likes", "rain")
    assert sorted(_values(profile, "likes")) == ["Tea", "rain"]


def test_a_removal_survives_rebuilds_until_the_owner_enters_it_again(profile: Profile, memory: Memory) -> None:
    _say(memory, ("2024-01-01", "I love jazz and chess."))
    profile.rebuild(memory)
    jazz = next(found for found in profile.attributes() if found.value == "jazz")
    profile.remove_attribute(jazz.id)
    profile.rebuild(memory)
    assert _values(profile, "likes") == ["chess"]
    profile.set_attribute("likes", "jazz")
    profile.rebuild(memory)
    assert sorted(_values(profile, "likes")) == ["chess", "jazz"]


def test_unknown_ids_are_named(profile: Profile) -> None:
    with pytest.raises(PenchantError, match="no attribute 7"):
        profile.remove_attribute(7)


def test_lines_for_a_prompt_are_those_that_matter(profile: Profile, memory: Memory) -> None:
    _say(
        memory,
        ("2026-01-01", "I'm allergic to walnuts."),
        ("2026-01-02", "I live in Lyon."),
        ("2026-01-03", "I love jazz."),
    )
    profile.rebuild(memory)
    rule = profile.add_rule("Keep answers short.")
    texts = [line.text for line in profile.prompt_lines("What shall I cook for dinner?")]
    assert texts == ["Keep answers short.", "I am allergic to walnuts."]
    assert profile.prompt_lines("Where do I live?")[1].id.startswith("attribute:")
    profile.change_rule(rule.id, active=False)
    assert [line.text for line in profile.prompt_lines("Any jazz tonight?")] == ["I love jazz.".replace("love", "like")]
    assert profile.prompt_lines("What is two plus two?") == []
    assert len(profile.prompt_lines("I live in Lyon, love jazz, and cook walnuts", limit=2)) == 2


def test_closed_and_unlikely_attributes_stay_out_of_prompts(profile: Profile, memory: Memory) -> None:
    _say(memory, ("2005-01-01", "I like golf."), ("2024-01-01", "I live in Paris."), ("2025-03-01", "I moved to Lyon."))
    profile.rebuild(memory)
    lines = profile.prompt_lines("Do I like golf, and do I live in Paris?")
    assert [line.text for line in lines] == ["I live in Lyon."]


def test_the_summary_is_shown_where_the_question_is_about_the_owner(profile: Profile) -> None:
    profile.set_summary("I repair clocks.")
    assert [line.id for line in profile.prompt_lines("What do you know about me?")] == ["summary:general"]
    assert profile.prompt_lines("What is a clock?") == []


def test_forgetting_a_memory_leaves_no_trace(tmp_path: Path) -> None:
    with Vault.open(tmp_path, _KEY) as vault:
        memory, profile = Memory(vault, HashingEmbedder()), Profile(vault)
        kept = memory.remember("I love jazz.", said_at="2025-01-01")
        item = memory.remember("I love zanzibarian trumpets.", said_at="2025-01-02")
        profile.rebuild(memory)
        profile.write_summary(None, memory)
        trumpets = next(found for found in profile.attributes() if found.memory_ids == (item.id,))
        profile.remove_attribute(trumpets.id)
        profile.add_rule("Mention zanzibarian things.")
        assert b"zanzibarian" in decrypted_pages(tmp_path, _KEY)
        vault.connection.execute("DELETE FROM memory_vectors WHERE memory_id = ?", (item.id,))
        vault.connection.execute("DELETE FROM memories WHERE id = ?", (item.id,))
        gone = profile.forget_traces([item.id], lambda text: "zanzibarian" in text)
        assert gone == 3  # the noted removal, the rule, the summary
        profile.rebuild(memory)
        vault.sweep_log()
        assert b"zanzibarian" not in decrypted_pages(tmp_path, _KEY)
        assert [found.memory_ids for found in profile.attributes()] == [(kept.id,)]


def test_what_another_memory_says_too_stays(profile: Profile, memory: Memory) -> None:
    _say(memory, ("2025-01-01", "I love jazz."), ("2025-02-01", "I still love jazz."))
    profile.rebuild(memory)
    assert profile.forget_traces([1], lambda _: False) == 0
    assert profile.attributes()[0].memory_ids == (2,)


def test_forgetting_everything(profile: Profile, memory: Memory, vault: Vault) -> None:
    _say(memory, ("2025-01-01", "I love jazz."), ("2025-01-01", "I prefer short answers."))
    profile.rebuild(memory)
    profile.set_attribute("lives_in", "Rome")
    profile.answer_question("name", "Lotte", memory)
    profile.set_summary("I am I.")
    assert profile.forget_all() > 4
    assert profile.attributes() == [] and profile.rules() == [] and profile.summary() is None
    tables = [
        name for (name,) in vault.connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'profile_%'")
    ]
    assert len(tables) >= 6
    assert all(vault.connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,) for table in tables)
