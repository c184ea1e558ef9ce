"""Pooled hidden states: the mean over the answer's tokens, of the base, whatever else the engine does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.hidden_states import ANSWER_TOKENS, PROMPT_TOKENS, HiddenStates
from edge_runtime.models.catalogue import find_model
from protocol.errors import PenchantError
from tests.edge_runtime.model_helpers import load_factors, needs_bundled_model, open_tiny, random_factors

PAIRS = [
    ("Where to?", "The sea and the wind."),
    ("Where to?", "On."),
    ("Where to?", "Over there, you and I! " * 3),
    ("Who?", "The other one."),
    ("", "Nobody asked, and here is an answer."),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("tiny")) as opened:
        yield opened


@pytest.fixture(scope="module")
def states(engine: Engine) -> HiddenStates:
    return HiddenStates(engine)


def token_by_token(engine: Engine, prompt: str, answer: str) -> np.ndarray:
    """The same by another way: the engine's hidden state of every prefix that ends inside the answer."""
    asked = engine.tokenise(engine.chat_prompt([ChatMessage("user", prompt)]))
    said = engine.tokenise(answer, special=False)
    rows = [engine.hidden([*asked, *said[: count + 1]]) for count in range(len(said))]
    return np.asarray(np.mean(rows, axis=0))


def close(states: np.ndarray, expected: np.ndarray) -> None:
    """Float32 weights: what remains is llama.cpp's rounding of keys and values to 16 bits."""
    np.testing.assert_allclose(states, expected, atol=5e-3 * np.abs(expected).max())


def test_a_state_is_the_mean_over_the_answers_tokens(engine: Engine, states: HiddenStates) -> None:
    rows = states.of(PAIRS)
    assert rows.shape == (5, 64) and rows.dtype == np.float32 and states.dimension == 64
    for row, pair in zip(rows, PAIRS, strict=True):
        close(row, token_by_token(engine, *pair))


def test_a_state_does_not_depend_on_its_company(states: HiddenStates) -> None:
    many = [(prompt, f"{answer} {number}") for number in range(12) for prompt, answer in PAIRS]
    many += [("Who?", f"Answer number {number}.") for number in range(40)]
    together = states.of(many)
    for index in (0, 17, 58, 61, 99):
        close(states.of([many[index]])[0], together[index])
    assert states.of([]).shape == (0, 64)


def test_prompt_and_answer_both_count(states: HiddenStates) -> None:
    one, prompt, answer = states.of([("Who?", "You and I."), ("When?", "You and I."), ("Who?", "You and he.")])
    size = np.linalg.norm(one)
    assert np.linalg.norm(one - prompt) > 0.05 * size
    assert np.linalg.norm(one - answer) > 0.05 * size


def test_states_are_the_bases_under_any_adapter(engine: Engine, states: HiddenStates) -> None:
    before = states.of(PAIRS)
    text = engine.tokenise("The sea and")
    plain = engine.hidden(text)
    engine.use_adapters([(load_factors(engine, random_factors(1), alpha=8.0), 1.0)])
    engine.use_control_vector(np.ones((3, 64), dtype=np.float32))
    try:
        assert np.linalg.norm(engine.hidden(text) - plain) > 0.1 * np.linalg.norm(plain)
        np.testing.assert_array_equal(states.of(PAIRS), before)
    finally:
        engine.use_adapters([])
        engine.use_control_vector(None)
    np.testing.assert_array_equal(engine.hidden(text), plain)


def test_of_a_long_prompt_the_end_counts_and_of_a_long_answer_the_beginning(states: HiddenStates) -> None:
    end, begin = "z" * PROMPT_TOKENS, "z" * ANSWER_TOKENS  # a letter is a token here
    one, same, other = states.of([("q" + end, "Yes"), ("k" + end, "Yes"), (end[1:] + "k", "Yes")])
    close(one, same)
    assert np.abs(one - other).max() > 1e-2 * np.abs(one).max()
    one, same, other = states.of([("Who?", begin + "q"), ("Who?", begin + "k"), ("Who?", "k" + begin)])
    close(one, same)
    assert np.abs(one - other).max() > 1e-2 * np.abs(one).max()


def test_an_empty_answer_has_a_state(states: HiddenStates) -> None:
    empty, other = states.of([("Who?", ""), ("Who?", "I")])
    assert np.isfinite(empty).all() and np.abs(empty - other).max() > 1e-2


def test_control_tokens_in_a_text_are_text(states: HiddenStates) -> None:
    """Otherwise an answer could open a turn of its own."""
    said = "Yes<|im_end|>"
    cut, whole = states.of([("Who?", "Yes"), ("Who?", said)])
    assert np.abs(cut - whole).max() > 1e-2
    assert len(states._answer_tokens(said)) > 5


def test_states_and_answers_do_not_disturb_each_other(engine: Engine, states: HiddenStates) -> None:
    prompt = engine.tokenise("The sea and the")
    answer = list(engine.generate(prompt, max_tokens=8))
    expected = states.of(PAIRS)
    assert list(engine.generate(prompt, max_tokens=8)) == answer
    np.testing.assert_array_equal(states.of(PAIRS), expected)


def test_it_closes_with_the_engine(tmp_path: Path) -> None:
    engine = open_tiny(tmp_path)
    states = HiddenStates(engine)
    states.of(PAIRS[:1])
    engine.close()
    engine.close()
    with pytest.raises(PenchantError, match="closed"):
        states.of(PAIRS[:1])


@pytest.mark.real_model
@needs_bundled_model
def test_answers_that_mean_the_same_are_closer() -> None:
    prompt = "What shall we do this evening?"
    with Engine.open(find_model(), context_tokens=256, threads=1) as engine:
        walk, stroll, tax = HiddenStates(engine).of(
            [
                (prompt, "Let us take a walk along the river."),
                (prompt, "We could go for a stroll by the water."),
                (prompt, "File the tax return before the deadline expires."),
            ]
        )
    assert np.linalg.norm(walk - stroll) < 0.9 * np.linalg.norm(walk - tax)
