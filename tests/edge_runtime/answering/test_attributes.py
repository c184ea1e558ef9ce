"""Attributes: what the model reads off an answer, and weights from choices that do not mistake length for taste."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edge_runtime.answering.attributes import (
    ATTRIBUTES,
    asking_for,
    bayes_weights,
    drift_weights,
    length_slopes,
    log_length,
    log_ratios,
    without_length,
)
from edge_runtime.engine.chat_template import ChatMessage

FITS = [drift_weights, bayes_weights]
A = len(ATTRIBUTES)


def judged(seed: int, count: int, *, taste: np.ndarray, length: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Differences (chosen minus other) and log length differences of a person with this taste and liking of length;
    attribute 0 rises with length.
    """
    rng = np.random.default_rng(seed)
    longer = rng.standard_normal(count)
    differences = rng.standard_normal((count, A)) * 0.3
    differences[:, 0] += 0.3 * longer
    utility = differences @ taste + length * longer
    sign = np.where(rng.random(count) < 1 / (1 + np.exp(-utility)), 1.0, -1.0)
    return differences * sign[:, None], longer * sign


def one_hot(index: int, size: float) -> np.ndarray:
    taste = np.zeros(A)
    taste[index] = size
    return taste


def test_the_sentence_ends_the_request_so_that_all_before_it_is_shared() -> None:
    messages = [ChatMessage("system", "Be kind."), ChatMessage("user", "Why?")]
    asked = asking_for(messages, ATTRIBUTES[2])
    assert asked[:-1] == messages[:-1] and asked[-1].role == "user"
    assert asked[-1].content == f"Why?\n{ATTRIBUTES[2].sentence}"


@pytest.mark.parametrize("fit", FITS)
def test_a_taste_is_found_from_fifty_choices(fit: object) -> None:
    for index, size in ((3, 6.0), (5, -6.0)):
        weights = fit(*judged(index, 50, taste=one_hot(index, size)))  # type: ignore[operator]
        assert np.argmax(np.abs(weights)) == index and np.sign(weights[index]) == np.sign(size)
        assert 0.3 < np.linalg.norm(weights) <= 1 + 1e-9


@pytest.mark.parametrize("fit", FITS)
def test_who_only_likes_length_has_no_taste_in_what_goes_with_it(fit: object) -> None:
    people = [judged(seed, 80, taste=np.zeros(A), length=3.0) for seed in range(30)]
    assert abs(np.mean([fit(*person)[0] for person in people])) < 0.15  # type: ignore[operator]
    blind_to_length = [fit(differences, np.zeros(80))[0] for differences, _ in people]  # type: ignore[operator]
    assert np.mean(blind_to_length) > 0.5


@pytest.mark.parametrize("fit", FITS)
def test_no_choice_gives_no_weight_and_chance_gives_little(fit: object) -> None:
    assert not fit(np.zeros((0, A)), np.zeros(0)).any()  # type: ignore[operator]
    assert not fit(np.zeros((3, A)), np.zeros(3)).any()  # type: ignore[operator]
    taste = one_hot(3, 6.0)
    with_signal = [np.linalg.norm(fit(*judged(seed, 100, taste=taste))) for seed in range(10)]  # type: ignore[operator]
    by_chance = [np.linalg.norm(fit(*judged(seed, 100, taste=0 * taste))) for seed in range(10)]  # type: ignore[operator]
    assert np.mean(by_chance) < 0.75 * np.mean(with_signal)


def test_what_is_left_after_length_is_orthogonal_to_it() -> None:
    differences, longer = judged(4, 60, taste=one_hot(1, 3.0), length=2.0)
    assert np.allclose(longer @ without_length(differences, longer), 0.0)
    assert length_slopes(differences, longer)[0] == pytest.approx(0.3, abs=0.15)
    assert not length_slopes(differences, np.zeros(60)).any()


class CountingEngine:
    """Scores a token by how often its letter stands in the prompt."""

    def chat_prompt(self, messages: Sequence[ChatMessage]) -> str:
        return messages[-1].content

    def tokenise(self, text: str, *, special: bool = True) -> list[int]:
        return list(text.encode())

    def score(self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[np.ndarray]:
        return [np.array([float(list(prefix).count(token)) for token in tokens]) for tokens in continuations]


def test_a_ratio_is_the_mean_gain_per_token_that_the_sentence_brings() -> None:
    ratios = log_ratios(CountingEngine(), "Why?", ["a", "ae"])  # type: ignore[arg-type]
    assert ratios.shape == (2, A)
    for column, attribute in enumerate(ATTRIBUTES):
        gains = {letter: attribute.sentence.count(letter) for letter in "ae"}
        assert ratios[0, column] == pytest.approx(gains["a"])
        assert ratios[1, column] == pytest.approx((gains["a"] + gains["e"]) / 2)


def test_log_length_counts_words() -> None:
    assert log_length("") == 0.0
    assert log_length("one two\nthree") == pytest.approx(np.log(4))
