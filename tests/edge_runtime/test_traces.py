"""Which texts are traces of a forgotten statement."""

from __future__ import annotations

import time

import pytest

from edge_runtime.traces import trace_finder, words_of


@pytest.mark.parametrize(
    ("forgotten", "text", "is_trace"),
    [
        ("My dog is called Bruno", "What does bruno eat?", True),
        ("My dog is called Bruno", "my  DOG is called bruno", True),
        ("My dog is called Bruno", "My name is what people call me", False),
        ("I'm allergic to walnuts", "Is there a walnut in it?", True),
        ("I'm allergic to walnuts", "Is there a wall in it?", False),
        ("I was born in 1987", "The film is from 1987", False),
        ("My PIN is 4711", "4711 is a perfume", True),
        ("I like to be called", "they say: I like to be called.", True),
        ("I like to be called", "I like it", False),
        ("我住在里昂", "你住在里昂吗", False),
        ("里昂", "你住在里昂吗", True),
        ("My café is the Ｚｏë", "the zoë again", True),
        ("Ottoline's bees", "ottoline", True),
        ("", "anything", False),
    ],
)
def test_traces(forgotten: str, text: str, is_trace: bool) -> None:
    assert trace_finder([forgotten], set())(text) is is_trace


def test_what_stays_remembered_is_no_trace() -> None:
    known = words_of("My sister Anna lives in Lyon")
    is_trace = trace_finder(["Anna has a dog", "I live in Lyon"], known)
    assert is_trace("a dog") and not is_trace("Anna in Lyon") and not is_trace("Lyon")
    assert trace_finder(["My sister lives in Lyon"], known)("My sister lives in Lyon, doesn't she?")


def test_much_at_once_is_as_fast_as_one() -> None:
    is_trace = trace_finder([f"word{number}x is mine" for number in range(20_000)], set())
    started = time.perf_counter()
    assert not any(is_trace("nothing of the kind in here") for _ in range(1000))
    assert time.perf_counter() - started < 5  # a scan for each of them would take minutes
    assert is_trace("here is word77x")
