"""Best of n: the best by reward, never by length, and the first candidate is the answer that would have been given."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import pytest

from edge_runtime.answering import best_of as module
from edge_runtime.answering.attributes import log_length
from edge_runtime.answering.best_of import (
    BAND,
    MOST_CANDIDATES,
    Best,
    best_of,
    candidate_samplings,
    length_controlled,
)
from edge_runtime.engine.sampling import Sampling
from protocol.errors import PenchantError


class Candidates:
    """Stands for an engine whose candidates are given."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts


@pytest.fixture(autouse=True)
def given_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    def candidates(
        engine: Candidates, prompt: Sequence[int], samplings: Sequence[Sampling], *, max_tokens: int
    ) -> Generator[str, None, list[list[str]]]:
        yield ""
        return [[f" {word}" for word in text.split(" ")] for text in engine.texts[: len(samplings)]]

    monkeypatch.setattr(module, "candidates", candidates)


def finished(
    engine: Candidates, rewards: dict[str, float], *, slope: float = 0.0, sentences: int | None = None
) -> Best:
    steps = best_of(
        engine,  # type: ignore[arg-type]
        [1],
        lambda texts: np.array([rewards[text] for text in texts]),
        slope,
        count=len(engine.texts),
        max_tokens=40,
        sampling=Sampling(),
        sentences=sentences,
    )
    while True:
        try:
            assert next(steps) == ""
        except StopIteration as end:
            best: Best = end.value
            return best


def test_the_answer_with_the_highest_reward_is_given() -> None:
    best = finished(Candidates("one a", "two b", "three c"), {"one a": 0.1, "two b": 0.9, "three c": 0.5})
    assert (best.text, best.index, best.rewards) == ("two b", 1, (0.1, 0.9, 0.5))


def test_what_length_explains_does_not_count() -> None:
    short, longer = "a b c d e f g h", "a b c d e f g h i"
    apart = log_length(longer) - log_length(short)
    assert finished(Candidates(short, longer), {short: 0.0, longer: 2.0 * apart}).text == longer
    assert finished(Candidates(short, longer), {short: 0.0, longer: 2.0 * apart}, slope=2.5).text == short


def test_an_answer_of_quite_another_length_does_not_compete() -> None:
    first, long = "a b c d", "a b c d e f g h i j k l"
    assert finished(Candidates(first, long), {first: 0.0, long: 100.0}).text == first
    scores = length_controlled(np.zeros(3), np.array([2.0, 2.0 + BAND, 2.0 - BAND - 0.01]), 0.0)
    assert np.isfinite(scores).tolist() == [True, True, False]


def test_equal_and_empty_candidates_are_judged_once_or_not_at_all() -> None:
    assert finished(Candidates("same", "same"), {}).rewards == (0.0,)
    assert finished(Candidates("", "word"), {}).text == "word"
    assert finished(Candidates("", ""), {}).text == ""


def test_candidates_end_where_an_answer_would() -> None:
    engine = Candidates("First one. And more", "Other one. And more")
    assert finished(engine, {"First one.": 0.0, "Other one.": 1.0}, sentences=1).text == "Other one."


def test_the_first_sampling_is_the_owners_and_the_others_differ() -> None:
    greedy = Sampling(repeat_penalty=1.1)
    samplings = candidate_samplings(greedy, 4)
    assert samplings[0] == greedy and len(set(samplings)) == 4
    assert all(one.temperature > 0 and one.repeat_penalty == 1.1 for one in samplings[1:])
    own = Sampling(temperature=0.3, seed=2**32 - 1)
    assert {one.temperature for one in candidate_samplings(own, 3)} == {0.3}


def test_too_many_candidates_are_refused() -> None:
    with pytest.raises(PenchantError, match="best of"):
        next(
            best_of(
                Candidates("a"),  # type: ignore[arg-type]
                [1],
                lambda texts: np.zeros(1),
                0.0,
                count=MOST_CANDIDATES + 1,
                max_tokens=4,
                sampling=Sampling(),
            )
        )
