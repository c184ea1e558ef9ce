from __future__ import annotations

import numpy as np
import pytest

from client.dp_sgd import example_gradients, prepare_examples
from simulations.attacks.texts import (
    LORA_RANK,
    TextViews,
    matched,
    text_membership,
    text_views,
    unit_rows,
    word_scores,
)
from tests.client.framed_help import some_texts, tiny_frame, tiny_model


@pytest.fixture(scope="module")
def views() -> TextViews:
    return text_views(tiny_model(), tiny_frame(), some_texts(), max_tokens=160, seed=0)


def test_the_coordinate_is_the_gradient_of_the_frame(views: TextViews) -> None:
    frame, texts = tiny_frame(), some_texts()
    expected = example_gradients(
        tiny_model(), frame, prepare_examples(tiny_model(), texts), np.arange(len(texts)), np.zeros(frame.dimension)
    )
    assert np.allclose(views.coordinate, expected, atol=1e-5 * np.abs(expected).max())
    outputs = sum(u.shape[0] for u in frame.left)
    assert views.lora.shape == (len(texts), outputs * LORA_RANK)
    assert all(name.base.weight.requires_grad is False for name in tiny_model()._maps.values())


def test_a_bare_view_names_its_text_and_noise_hides_it(views: TextViews) -> None:
    random = np.random.default_rng(0)
    for table in (views.coordinate, views.lora.astype(float)):
        assert matched(table, table) == len(table)
        drowned = unit_rows(table) + 5 * random.normal(size=table.shape)
        assert matched(drowned, table) < len(table)


def test_words_are_read_from_views_that_depend_on_them() -> None:
    random, texts = np.random.default_rng(1), 240
    table = random.random((texts, 12)) < 0.3
    words = [frozenset(np.flatnonzero(line).tolist()) for line in table]
    directions = random.normal(size=(12, 40))
    shown = table @ directions + 0.5 * random.normal(size=(texts, 40))
    known = np.arange(texts) % 2 == 0
    found = word_scores(shown, words, known, shown)
    assert len(found) == 12 and found.mean() > 0.9
    nothing = word_scores(shown, words, known, random.normal(size=shown.shape))
    assert abs(nothing.mean() - 0.5) < 0.06


def test_texts_of_a_person_are_found_in_their_update_only(views: TextViews) -> None:
    random = np.random.default_rng(2)
    owner = np.repeat(np.arange(5), 6)
    table = random.normal(size=(30, 64))
    updates = np.stack([-table[owner == person].mean(0) for person in range(5)])
    assert text_membership(updates, table, owner).min() > 0.95
    assert abs(text_membership(random.normal(size=updates.shape), table, owner).mean() - 0.5) < 0.2
