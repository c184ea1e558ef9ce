from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.memory.memory import Memory
from edge_runtime.profile.profile import Profile
from edge_runtime.profile.questions import GUIDED_QUESTIONS
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import HashingEmbedder


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault.open(tmp_path, b"k" * 32) as vault:
        yield vault


def test_an_answer_becomes_a_memory_and_an_attribute(vault: Vault) -> None:
    profile, memory = Profile(vault), Memory(vault, HashingEmbedder())
    assert [question.id for question in profile.questions()] == [question.id for question in GUIDED_QUESTIONS]
    home = profile.answer_question("home", "I live in a small flat in Kiel.", memory)
    assert (home.name, home.value, home.probability, home.source) == ("lives_in", "a small flat in Kiel", 1.0, "you")
    (item,) = memory.items()
    assert (item.text, item.cue) == ("I live in a small flat in Kiel.", "Where do you live?")
    assert home.memory_ids == (item.id,)
    assert "home" not in [question.id for question in profile.questions()]
    profile.rebuild(memory)
    assert profile.attributes() == [home]


def test_no_is_an_answer_too(vault: Vault) -> None:
    profile, memory = Profile(vault), Memory(vault, HashingEmbedder())
    assert profile.answer_question("allergies", "No.", memory).value == "nothing"


def test_what_memories_say_is_not_asked(vault: Vault) -> None:
    profile, memory = Profile(vault), Memory(vault, HashingEmbedder())
    memory.remember("I'm allergic to walnuts.")
    profile.rebuild(memory)
    assert "allergies" not in [question.id for question in profile.questions()]


def test_forgetting_the_answer_asks_again(vault: Vault) -> None:
    profile, memory = Profile(vault), Memory(vault, HashingEmbedder())
    entered = profile.answer_question("likes", "Baking bread", memory)
    profile.forget_traces(entered.memory_ids, lambda _: False)
    assert "likes" in [question.id for question in profile.questions()]


def test_an_unknown_question_is_named(vault: Vault) -> None:
    with pytest.raises(PenchantError, match="no such question"):
        Profile(vault).answer_question("shoe", "42", Memory(vault, HashingEmbedder()))
