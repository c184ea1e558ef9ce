"""Questions and answers made by rules from what was said: claims, sentences, answers in chats; weights by age."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.examples import make_example
from client.objectives.conversation_questions import (
    QuestionAnswer,
    conversation_questions,
    in_time,
    questions_of_chat,
    questions_of_claims,
    questions_of_sentences,
    recency_weights,
)
from edge_runtime.answering.answering import build_messages
from edge_runtime.memory.statements import MemoryItem
from tests.client.objectives.objective_help import item
from tests.edge_runtime.model_helpers import open_tiny


def asked(pairs: list[QuestionAnswer]) -> list[tuple[str, str]]:
    return [(pair.question, pair.answer) for pair in pairs]


def turn(position: int, text: str, speaker: str = "", document: str = "c") -> MemoryItem:
    return item(
        position + 1, text, kind="passage", source="chat", speaker=speaker, document=document, position=position
    )


def test_claims_become_questions_answered_to_their_owner() -> None:
    assert asked(questions_of_claims(item(1, "I moved to Lyon with my cat Minou."))) == [
        ("What is my cat's name?", "Your cat's name is Minou."),
        ("Where do I live?", "You live in Lyon."),
        ("Which place is my home?", "You live in Lyon."),
    ]
    assert ("What do I not like?", "You do not like olives.") in asked(questions_of_claims(item(1, "I hate olives.")))


def test_what_no_longer_holds_or_somebody_else_said_is_not_asked() -> None:
    assert questions_of_claims(item(1, "I live in Lyon.", valid_until="2025-02-02")) == []
    assert questions_of_claims(item(1, "I live in Lyon.", speaker="Ana")) == []
    assert questions_of_claims(item(1, "I used to live in Lyon.")) == []
    assert asked(questions_of_claims(item(1, "My sister Ana lives in Lyon."))) == [
        ("What is my sister's name?", "Your sister's name is Ana.")
    ]


def test_the_longest_sentence_is_asked_for_by_its_names_or_rarest_words() -> None:
    items = [
        item(1, "Hello. We took Minou to the vet in Gdansk on Friday morning. Are you coming with us next time we go?"),
        item(2, "the old kiln in the shed is broken again"),
        item(3, "the old shed is full of snow today again"),
        item(4, "too short"),
    ]
    assert asked(questions_of_sentences(items)) == [
        ("What did I say about Minou and Gdansk?", "We took Minou to the vet in Gdansk on Friday morning."),
        ("What did I say about kiln and broken?", "the old kiln in the shed is broken again"),
        ("What did I say about full and snow?", "the old shed is full of snow today again"),
    ]


def test_an_answer_in_a_chat_is_asked_with_the_question_right_before_it() -> None:
    turns = [
        turn(1, "Yes, with the kids."),
        turn(0, "Are you coming?", "Ana"),
        turn(2, "Great!", "Ana"),
        turn(3, "When?"),
        turn(4, "At noon.", "Ana"),
        turn(6, "I am late", document="c"),
        turn(0, "Who?", "Ana", "d"),
        turn(1, "Somebody else", "Teo", "d"),
    ]
    assert asked(questions_of_chat(turns)) == [
        ('When Ana asked me "Are you coming?", what did I say?', "Yes, with the kids.")
    ]


def test_each_pair_once_oldest_first() -> None:
    a, b = QuestionAnswer("q", "a", "2025-01-03"), QuestionAnswer("r", "b", "2025-01-02")
    assert in_time([QuestionAnswer("q", "a", "2025-01-01"), a, b]) == [b, a]


def test_weights_halve_with_the_half_life_and_have_mean_one() -> None:
    weights = recency_weights(["2025-01-01", "2025-01-11", "2025-01-21"], half_life=10)
    assert weights == pytest.approx([3 / 7, 6 / 7, 12 / 7]) and recency_weights([]) == []


def test_the_objective_is_in_time_order_with_the_weights_on_every_token(tmp_path: Path) -> None:
    items = [
        item(9, "I hate olives.", said_at="2025-07-01"),
        item(8, "I live in Lyon.", said_at="2025-01-02"),
        item(7, "I live in Bern.", said_at="2025-05-01", speaker="Ana"),
        item(6, "I live in Rome.", kind="passage", source="file", document="f"),
    ]
    with open_tiny(tmp_path) as engine:
        made = conversation_questions(engine, items, weight=0.3)
        plain = [
            make_example(engine, build_messages(question, []), answer)
            for question, answer in (
                ("Where do I live?", "You live in Lyon."),
                ("Which place is my home?", "You live in Lyon."),
                ("What do I not like?", "You do not like olives."),
                ("What can I not stand?", "You do not like olives."),
            )
        ]
        assert [(text.tokens, text.prompt_length) for text in made.examples] == [
            (text.tokens, text.prompt_length) for text in plain
        ]
    first, last = made.examples[0].weights, made.examples[-1].weights
    assert len(set(first)) == 1 and len(first) == len(made.examples[0].tokens) - made.examples[0].prompt_length
    assert last[0] == pytest.approx(2 * first[0])
    assert made.in_order and (made.name, made.weight) == ("conversation_questions", 0.3)
