from __future__ import annotations

import pytest

from edge_runtime.profile.wording import asks_about_owner, relevance, sentence_of, words_of


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("lives_in", "Lyon", "I live in Lyon."),
        ("works_as", "nurse", "I work as a nurse."),
        ("works_as", "engineer", "I work as an engineer."),
        ("works_as", "retired", "I am retired."),
        ("sister's name", "Ana", "My sister's name is Ana."),
        ("favourite tea", "Assam", "My favourite tea: Assam."),
        ("habit", "play the cello on Tuesdays", "I play the cello on Tuesdays."),
    ],
)
def test_an_attribute_as_a_sentence(name: str, value: str, sentence: str) -> None:
    assert sentence_of(name, value) == sentence


def test_relevance_counts_shared_words_and_topics() -> None:
    assert relevance("likes", "jazz", "Any jazz tonight?") == 1.0
    assert relevance("allergic_to", "walnuts", "A recipe for dinner") == 0.5
    assert relevance("allergic_to", "walnuts", "A walnut recipe") == 1.5
    assert relevance("likes", "jazz", "What is two plus two?") == 0.0


def test_questions_about_the_owner() -> None:
    assert asks_about_owner("What do you know about me?")
    assert not asks_about_owner("What is a clock?")


def test_word_forms_meet() -> None:
    assert words_of("the cats were living") == words_of("cat lives")
