"""Answers that end where a sentence ends: after a number of sentences, or before the token limit cuts one in two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edge_runtime.answering.words import sentence_end

_HELD_BACK: Final = 2 / 3  # of the token limit, from where on only whole sentences are let through


def whole_sentences(pieces: Iterator[str], *, max_tokens: int, sentences: int | None = None) -> Iterator[str]:
    """The pieces of an answer, without leading space, ended after `sentences` sentences if given. Where `max_tokens`
    pieces came, so that the limit ended it, a last sentence without an end is left out, unless there is no other.

    A piece is at most one token's text, so a count of pieces that falls short of the limit means that the model ended
    by itself, or that a character took several tokens: then nothing is left out.
    """
    text, shown, ended, count = "", 0, 0, 0
    for piece in pieces:
        count += 1
        text = text + piece if text else piece.lstrip()
        if sentences is not None:
            while (end := _first_end(text, ended)) is not None:
                ended, sentences = end, sentences - 1
                if sentences <= 0:
                    yield text[shown:ended]
                    return
        until = len(text) if count < _HELD_BACK * max_tokens else max(shown, sentence_end(text, shown))
        if until > shown:
            yield text[shown:until]
            shown = until
    cut = count >= max_tokens and sentence_end(text) > 0
    until = max(shown, sentence_end(text)) if cut else len(text)
    if text[shown:until]:
        yield text[shown:until]


def _first_end(text: str, start: int) -> int | None:
    """Where the first sentence behind `start` ends, once it is clear that it does: a space follows."""
    for at in range(start + 1, len(text)):
        if text[at].isspace() and sentence_end(text[:at], start) == at:
            return at
    return None
