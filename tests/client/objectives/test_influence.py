"""Token weights from what the owner's history does to the prediction of a token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.examples import Example
from client.objectives.influence import base_log_probabilities, influence, token_weights
from protocol.errors import PenchantError
from tests.client.framed_help import plain_log_probabilities, plain_model, tiny_model
from tests.client.objectives.objective_help import some_examples


def test_the_formula_by_hand() -> None:
    """Effects 1, -2 (counts as 0), 5 (capped at 2), 0, with floor 1/2: raw 1.5, 0.5, 2.5, 0.5, mean 1.25."""
    without = np.array([-3.0, -1.0, -6.0, -2.0])
    weights = token_weights(without + np.array([1.0, -2.0, 5.0, 0.0]), without)
    assert weights == pytest.approx([1.2, 0.4, 2.0, 0.4])


def test_the_mean_is_one_and_every_token_keeps_some_weight() -> None:
    random = np.random.default_rng(0)
    for floor, cap in ((0.5, 2.0), (0.1, 8.0)):
        weights = np.array(token_weights(random.normal(-3, 2, 40), random.normal(-3, 2, 40), floor=floor, cap=cap))
        assert weights.mean() == pytest.approx(1.0) and weights.min() > 0
        assert weights.max() / weights.min() <= (floor + cap) / floor + 1e-9


def test_without_an_effect_all_tokens_weigh_the_same() -> None:
    same = np.array([-1.0, -5.0, -2.0])
    assert token_weights(same, same) == (1.0, 1.0, 1.0)
    assert token_weights(same[:0], same[:0]) == ()


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(PenchantError, match="per token"):
        token_weights(np.zeros(3), np.zeros(2))
    with pytest.raises(PenchantError, match="floor"):
        token_weights(np.zeros(3), np.zeros(3), floor=0.0)


def test_the_plain_examples_get_the_weights_of_their_replies() -> None:
    plain = some_examples(3)
    longer = [replace(one, tokens=(7, 8, 9, *one.tokens), prompt_length=one.prompt_length + 3) for one in plain]
    made = influence(plain, longer, lambda example: base_log_probabilities(tiny_model(), example), weight=3.0)
    oracle = plain_model()
    for one, before, with_notes in zip(made.examples, plain, longer, strict=True):
        assert (one.tokens, one.prompt_length) == (before.tokens, before.prompt_length)
        effect = (
            plain_log_probabilities(oracle, list(with_notes.tokens))[with_notes.prompt_length - 1 :]
            - plain_log_probabilities(oracle, list(before.tokens))[before.prompt_length - 1 :]
        )
        raw = 0.5 + np.clip(effect, 0, 2)
        assert one.weights == pytest.approx(raw / raw.mean(), rel=1e-3)
    assert (made.name, made.weight) == ("influence", 3.0)
    with pytest.raises(PenchantError, match="same reply"):
        influence(plain[:1], [Example((1, 2, 3), 2)], lambda example: np.zeros(1))
