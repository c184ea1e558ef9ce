"""Telling words, names, and where sentences end."""

from __future__ import annotations

import pytest

from edge_runtime.answering.words import names_in, sentence_end, sentences, telling_words


def test_telling_words_are_stems_without_function_words() -> None:
    assert telling_words("What are my dogs called?") == ("dog",)
    assert telling_words("She plays; he played, they're playing") == ("play", "they're")
    assert telling_words("Ines's stories and classes") == ("ine", "story", "class")
    assert set(telling_words("the allergy")) & set(telling_words("Allergies")) == {"allergy"}
    assert telling_words("What is it about?") == ()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("What does Ines play?", ("Ines",)),
        ("When does Mr Petersen call Ana's sister?", ("Mr Petersen", "Ana")),
        ("Where is it? Tell me", ()),
        ("Ines plays the cello.", ("Ines",)),
        ("Is it on Tuesday in March?", ()),
        ("Yes, I said so.", ()),
    ],
)
def test_names_are_capitals_that_no_sentence_asks_for(text: str, names: tuple[str, ...]) -> None:
    assert names_in(text) == names


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One. Two", "One."),
        ('He said "no." Then', 'He said "no."'),
        ("Ask Dr. Okafor", ""),
        ("It costs 3.50 euros", ""),
        ("Really?! Yes", "Really?!"),
        ("Done.", "Done."),
        ("See\n1. First", ""),
        ("No end", ""),
    ],
)
def test_a_sentence_ends_at_its_mark_and_not_at_an_abbreviation(text: str, whole: str) -> None:
    assert text[: sentence_end(text)] == whole


def test_sentences_are_split_at_marks_and_lines() -> None:
    assert sentences("One. Two!\nThree without a mark\n\nFour?") == ["One.", "Two!", "Three without a mark", "Four?"]
