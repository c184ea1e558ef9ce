"""Steering: the composed distribution, what it must not touch, and a real decode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.answering.attributes import ATTRIBUTES
from edge_runtime.answering.steering import PLAUSIBLE, PROMPTS, composer, steered, strongest
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Sampling
from edge_runtime.models.catalogue import BUNDLED_NAME, find_model
from tests.edge_runtime.model_helpers import needs_bundled_model, open_tiny

END = 7


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max())
    result: np.ndarray = shifted / shifted.sum()
    return result


def rows(seed: int, count: int, spread: float = 0.5) -> np.ndarray:
    return (spread * np.random.default_rng(seed).standard_normal((count, 20))).astype(np.float32)


def test_words_are_steered_as_the_paper_says_where_all_are_plausible() -> None:
    logits, weights = rows(0, 3), np.array([0.8, -0.4])
    steered_to = softmax(composer(weights, [END])(logits))
    wanted = softmax(logits[0] + weights @ (logits[1:] - logits[0]))
    words = np.arange(20) != END
    assert np.allclose(steered_to[words] / steered_to[words].sum(), wanted[words] / wanted[words].sum(), atol=1e-5)


@pytest.mark.parametrize("strength", [0.0, 1.0, 3.0])
def test_the_probability_of_ending_stays_the_models_own(strength: float) -> None:
    logits = rows(1, 3)
    logits[1, END], logits[2, END] = 8.0, -8.0
    steered_to = softmax(composer(strength * np.array([1.0, -1.0]), [END])(logits))
    assert steered_to[END] == pytest.approx(softmax(logits[0])[END], rel=1e-4)


def test_a_token_that_the_model_finds_implausible_is_never_chosen() -> None:
    logits = rows(2, 2, spread=2.0)
    logits[0, 3] = logits[0].max() + np.log(PLAUSIBLE) - 1
    logits[1, 3] = 50.0
    assert softmax(composer(np.array([3.0]), [END])(logits))[3] == 0.0


def test_a_row_that_adds_the_same_to_all_tokens_changes_nothing() -> None:
    logits = rows(3, 3)
    moved = logits.copy()
    moved[1] += 11.0
    weights = np.array([0.7, 0.2])
    assert np.allclose(composer(weights, [END])(logits), composer(weights, [END])(moved), atol=1e-4)


def test_only_the_attributes_that_matter_take_part() -> None:
    assert strongest(np.zeros(len(ATTRIBUTES))) == []
    weights = np.linspace(-0.5, 0.9, len(ATTRIBUTES))
    chosen = strongest(weights)
    assert len(chosen) == PROMPTS and chosen[0] == len(ATTRIBUTES) - 1
    assert min(abs(weights[chosen])) >= max(abs(np.delete(weights, chosen)))


def test_no_weight_or_no_strength_is_the_models_own_answer(tmp_path: Path) -> None:
    messages = [ChatMessage("user", "the in an")]
    with open_tiny(tmp_path) as engine:
        plain = "".join(engine.generate(engine.tokenise(engine.chat_prompt(messages)), max_tokens=8))

        def answer(weights: np.ndarray, strength: float) -> str:
            pieces = steered(engine, messages, weights, strength, max_tokens=8, sampling=Sampling())
            return "".join(pieces)

        ones = np.ones(len(ATTRIBUTES)) / 3
        assert answer(0 * ones, 1.0) == answer(ones, 0.0) == answer(1e-3 * ones, 1.0) == plain
        assert answer(ones, 4.0) != plain


@pytest.mark.real_model
@needs_bundled_model
def test_the_bundled_model_asks_back_when_it_is_steered_to() -> None:
    from edge_runtime.engine.engine import Engine

    weights = np.array([float(one.name == "questions") for one in ATTRIBUTES])
    requests = ["What should I cook tonight?", "How do I learn to swim?", "I feel tired today."]
    sampling = Sampling(repeat_penalty=1.1)
    with Engine.open(find_model(BUNDLED_NAME), context_tokens=512, threads=1) as engine:

        def questions(strength: float) -> int:
            answers = (
                steered(engine, [ChatMessage("user", one)], weights, strength, max_tokens=32, sampling=sampling)
                for one in requests
            )
            return sum("".join(pieces).count("?") for pieces in answers)

        assert questions(2.0) > questions(0.0)
