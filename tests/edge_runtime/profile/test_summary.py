from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.engine.engine import Engine
from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import Statement
from edge_runtime.models.catalogue import find_model
from edge_runtime.profile.profile import Profile
from edge_runtime.profile.summary import Line, grounds_of, style_lines, write_summary
from edge_runtime.profile.wording import words_of
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import needs_bundled_model

_LINES = [Line("I live in Lyon.", (1,)), Line("I like jazz and chess.", (2, 3)), Line("I do not eat meat.", (4,))]


class _Says:
    """An engine that says what it is told to."""

    def __init__(self, text: str) -> None:
        self.text = text

    def chat_prompt(self, messages: object) -> str:
        return ""

    def tokenise(self, text: str, *, special: bool = False) -> list[int]:
        return [1]

    def generate(self, tokens: object, **_: object) -> Iterator[str]:
        yield self.text


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault.open(tmp_path, b"k" * 32) as vault:
        yield vault


@pytest.fixture
def memory(vault: Vault) -> Memory:
    memory = Memory(vault, HashingEmbedder())
    memory.remember_many(
        [Statement("I live in Lyon.", said_at="2025-01-01"), Statement("I love jazz.", said_at="2025-01-02")]
    )
    return memory


@pytest.mark.parametrize(
    ("sentence", "grounds"),
    [
        ("I live in Lyon.", {0}),
        ("I live in Lyon, and I like chess and jazz.", {0, 1}),
        ("I do not eat meat.", {2}),
        ("I don't eat meat, but I live in Lyon.", {0, 2}),
        ("I eat meat.", set()),
        ("I do not live in Lyon.", set()),
        ("I live in Lyon with two dogs.", set()),
        ("I like Lyon.", set()),
        ("I like jazz.", set()),
        ("I am a happy person.", set()),
    ],
)
def test_a_sentence_is_admitted_only_if_lines_say_the_same(sentence: str, grounds: set[int]) -> None:
    assert grounds_of(sentence, _LINES) == grounds


def test_invented_sentences_are_dropped_and_uncovered_lines_added() -> None:
    engine = _Says("I live in Lyon and I like jazz and chess. I have three sons. I never eat meat. I live in Ly")
    text, by, ids = write_summary(engine, _LINES, "general")  # type: ignore[arg-type]
    assert text == "I live in Lyon and I like jazz and chess. I never eat meat."
    assert (by, ids) == ("model", (1, 2, 3, 4))


def test_if_nothing_is_grounded_the_plain_lines_stand() -> None:
    text, by, _ = write_summary(_Says("I love Paris. I am a king."), _LINES, "general")  # type: ignore[arg-type]
    assert (text, by) == ("I live in Lyon. I like jazz and chess. I do not eat meat.", "statistics")


def test_a_summary_is_stored_and_turns_stale(vault: Vault, memory: Memory) -> None:
    profile = Profile(vault)
    written = profile.write_summary(None, memory)
    assert written.text == "I live in Lyon. I like jazz." and written.memory_ids == (1, 2)
    stored = profile.summary()
    assert stored is not None and not stored.stale
    profile.set_attribute("likes", "chess")
    stale = profile.summary()
    assert stale is not None and stale.stale
    assert profile.prompt_lines("What do you know about me?") == []
    assert not profile.write_summary(None, memory).stale


def test_the_owners_summary_is_never_overwritten_nor_stale(vault: Vault, memory: Memory) -> None:
    profile = Profile(vault)
    profile.set_summary("I repair clocks.")
    profile.set_attribute("likes", "chess")
    kept = profile.write_summary(None, memory)
    assert (kept.text, kept.by, kept.stale) == ("I repair clocks.", "you", False)
    assert profile.drop_summary() and profile.write_summary(None, memory).by == "statistics"


def test_nothing_to_summarise_and_unknown_tasks_are_said(vault: Vault) -> None:
    profile, memory = Profile(vault), Memory(vault, HashingEmbedder())
    with pytest.raises(PenchantError, match="nothing to summarise"):
        profile.write_summary(None, memory)
    with pytest.raises(PenchantError, match="tasks are general, drafting"):
        profile.summary("cooking")


def test_style_is_counted(vault: Vault) -> None:
    lines = style_lines(["hello there! how are you?"] * 3 + ["Fine."] * 3)
    assert lines[0] == "Messages have about 3 words."
    assert "50 of 100 messages have exclamation marks." in lines
    assert "50 of 100 messages have a beginning in lower case." in lines
    assert style_lines(["Too few."]) == []


def test_the_drafting_summary_holds_counts_only(vault: Vault) -> None:
    memory, profile = Memory(vault, HashingEmbedder()), Profile(vault)
    memory.remember_many([Statement(f"My zanzibarian note number {number}!") for number in range(6)])
    written = profile.write_summary(None, memory, "drafting")
    assert "100 of 100 messages have exclamation marks." in written.text
    assert "zanzibarian" not in written.text and not written.stale


@pytest.mark.real_model
@needs_bundled_model
def test_the_bundled_model_adds_no_word_of_its_own(vault: Vault, memory: Memory) -> None:
    memory.remember_many(
        [Statement("I work as a nurse."), Statement("I'm allergic to walnuts."), Statement("I hate olives.")]
    )
    profile = Profile(vault)
    with Engine.open(find_model(), context_tokens=1024, threads=1) as engine:
        written = profile.write_summary(engine, memory)
    evidence = set().union(*(words_of(line.text) for line in profile.summary_lines()))
    assert words_of(written.text) <= evidence
    assert words_of("olives walnuts nurse jazz Lyon") <= words_of(written.text)
