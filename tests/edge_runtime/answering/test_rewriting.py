"""Follow-up questions: what they are searched for, and which questions are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.answering.rewriting import rewrite
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.memory.memory import Memory
from edge_runtime.store.vault import Vault
from tests.edge_runtime.memory_helpers import HashingEmbedder


def talk(*turns: str) -> list[ChatMessage]:
    """Question, answer, question, answer ..."""
    return [ChatMessage("assistant" if at % 2 else "user", text) for at, text in enumerate(turns)]


@pytest.mark.parametrize(
    ("earlier", "question", "searched"),
    [
        # ellipsis
        (("Do I see the dentist soon?", "Yes."), "And when exactly?", "Do I see the dentist soon, when exactly?"),
        (("What does Ines play?", "The cello."), "Why?", "What does Ines play, Why?"),
        (
            ("When is the dentist?", "On 14 March.", "And where?", "In Ghent."),
            "And why?",
            "When is the dentist, why?",
        ),
        # another topic in the same question
        (("What does Ines play?", "The cello."), "What about Ana?", "What does Ana play?"),
        (("What does Ines play?", "The cello."), "And Ana?", "What does Ana play?"),
        (
            ("What is my dog called?", "Bruno."),
            "and how about my cat?",
            "What is my cat called?",
        ),
        (("Where is the spare key?", "Under the pot."), "What about the car key?", "Where is the car key?"),
        (("What is my dog called?", "Bruno."), "And Ana's?", "What is Ana's called?"),
        (("What do I do on Tuesday?", "Cello."), "What about on Friday?", "What do I do on Tuesday, on Friday?"),
        (
            ("What does Ines play?", "The cello.", "What about Ana?", "The flute."),
            "And when?",
            "What does Ana play, when?",
        ),
        # pronouns
        (("Where does my brother live?", "In Lyon."), "How old is he?", "How old is my brother?"),
        (("Who is coming?", "Your sister Ana is coming."), "What does she eat?", "What does my sister Ana eat?"),
        (("What does Ines play?", "The cello."), "What is her teacher called?", "What is Ines's teacher called?"),
        (("Where did I park my bike?", "At the station."), "Is it locked?", "Is my bike locked?"),
        (("Where does my dog sleep?", "In the hall."), "And what is it called?", "And what is my dog called?"),
        (("Is my old bike locked?", "Yes."), "Where is it?", "Where is my old bike?"),
        (("Where is the spare key?", "In the pot."), "Who hid it?", "Who hid the spare key?"),
        (("Tell me about the kiln", "It is old."), "What is its temperature?", "What is the kiln's temperature?"),
    ],
)
def test_a_follow_up_is_searched_as_a_whole_question(earlier: tuple[str, ...], question: str, searched: str) -> None:
    assert rewrite(question, talk(*earlier)) == searched


@pytest.mark.parametrize(
    ("earlier", "question"),
    [
        ((), "And when?"),
        (("What is my dog called?", "Bruno."), "Where is the spare key?"),
        (("What does Ines play?", "The cello."), "Where does my brother live and is he well?"),
        (("What does Ines play?", "The cello."), "What is the capital of France?"),
        (("What does Ines play?", "The cello."), "When did Tom say that he would come?"),
        (("What is my dog called?", "Bruno."), "And what is the capital of France?"),
    ],
)
def test_a_question_that_stands_on_its_own_is_left_alone(earlier: tuple[str, ...], question: str) -> None:
    assert rewrite(question, talk(*earlier)) == question


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Vault.open(tmp_path, bytes(32)) as vault:
        yield Memory(vault, HashingEmbedder())


def test_follow_up_questions_do_not_lose_retrieval(memory: Memory) -> None:
    """The complaint: the second question of a chat finds nothing, since its words alone match nothing."""
    memory.remember("Ines plays the cello on Tuesdays")
    memory.remember("Ana plays the flute on Mondays")
    memory.remember("My brother Tomas drinks no coffee")
    memory.remember("The landlord fixed the boiler")
    earlier = talk("What does Ines play?", "She plays the cello.")
    for question, expected in (
        ("And when?", "Ines plays"),
        ("What about Ana?", "Ana plays"),
        ("On which day does she play?", "Ines plays"),
    ):
        found = memory.recall(rewrite(question, earlier), k=1)
        assert [one.item.text.startswith(expected) for one in found] == [True], question
    coffee = talk("Who is my brother?", "Your brother is Tomas.")
    assert memory.recall(rewrite("What does he drink?", coffee), k=1)[0].item.text.startswith("My brother Tomas")
