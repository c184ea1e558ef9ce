"""Streams of text: whole characters, stop strings, and what the samplers choose."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.engine.sampling import Sampling, stop_at, whole_characters
from protocol.errors import PenchantError


def _cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    return [*pieces, data[start:]]


@given(st.text(max_size=40), st.lists(st.integers(0, 3), max_size=30))
def test_characters_stay_whole_however_the_bytes_are_cut(text: str, sizes: list[int]) -> None:
    pieces = list(whole_characters(iter(_cut(text.encode(), sizes))))
    assert "".join(pieces) == text and all(pieces)


def test_an_emoji_over_four_tokens_is_one_piece() -> None:
    raw = "🙂".encode()
    assert list(whole_characters(bytes([byte]) for byte in raw)) == ["🙂"]


def test_bytes_that_never_become_a_character_are_replaced() -> None:
    assert "".join(whole_characters(iter([b"a", b"\xf0\x9f"]))) == "a\ufffd"


@given(st.text(alphabet="abc", max_size=30), st.lists(st.integers(0, 4), max_size=30))
def test_stop_strings_end_the_text_wherever_it_is_cut(text: str, sizes: list[int]) -> None:
    stop = ("cab", "bb")
    pieces, start = [], 0
    for size in sizes:
        pieces.append(text[start : start + size])
        start += size
    pieces.append(text[start:])
    first = min((at for at in (text.find(word) for word in stop) if at >= 0), default=len(text))
    assert "".join(stop_at(iter(pieces), stop)) == text[:first]


def test_text_is_held_back_only_while_it_may_become_a_stop_string() -> None:
    stream = stop_at(iter(["hello ", "EN", "Dx", "END", "never"]), ("END!", "DxEND"))
    assert list(stream) == ["hello ", "EN"]


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"top_p": 0.0}, {"min_p": 1.0}, {"repeat_penalty": 0.0}, {"seed": -1}],
)
def test_senseless_sampling_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PenchantError):
        Sampling(**wrong)  # type: ignore[arg-type]
