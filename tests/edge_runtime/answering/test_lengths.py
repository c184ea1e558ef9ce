"""Where an answer ends: after so many sentences, and never in the middle of one if it can be helped."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.answering.lengths import whole_sentences


def said(text: str, *, max_tokens: int = 100, sentences: int | None = None) -> str:
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    return "".join(whole_sentences(iter(pieces[:max_tokens]), max_tokens=max_tokens, sentences=sentences))


def test_an_answer_that_ends_by_itself_is_whole_without_leading_space() -> None:
    assert said("\n Your dog. And no mark") == "Your dog. And no mark"


def test_so_many_sentences_and_no_more() -> None:
    text = "Ask Dr. Okafor. She knows 3.5 things. And more."
    assert said(text, sentences=1) == "Ask Dr. Okafor."
    assert said(text, sentences=2) == "Ask Dr. Okafor. She knows 3.5 things."
    assert said(text, sentences=9) == text


def test_generation_stops_with_the_last_sentence_asked_for() -> None:
    asked: list[str] = []

    def pieces() -> Iterator[str]:
        for piece in ("One.", " Two.", " Three.", " Four."):
            asked.append(piece)
            yield piece

    assert "".join(whole_sentences(pieces(), max_tokens=100, sentences=1)) == "One."
    assert asked == ["One.", " Two."]  # the space behind it shows that it ended


def test_the_token_limit_cuts_no_sentence_in_two_if_there_is_another() -> None:
    text = "The first sentence is whole. The second one is not"
    assert said(text, max_tokens=12) == "The first sentence is whole."
    assert said("There is no end to this one at all", max_tokens=5) == "There is no end"


def test_what_is_shown_is_never_taken_back() -> None:
    text = "One. Two. " + "a word and " * 30
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    for limit in range(1, 60):
        shown = "".join(whole_sentences(iter(pieces[:limit]), max_tokens=limit))
        assert text.startswith(shown)
        early = pieces[: -(-2 * limit // 3) - 1]  # before two thirds of the limit
        assert len(shown) >= len("".join(early))
