"""Groups of examples that are sampled, summed and clipped as one, against brute force."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from client.dp_sgd import (
    PrivateSettings,
    clipped_sum,
    example_gradients,
    noisy_mean,
    prepare_examples,
    train_privately,
)
from client.privacy_units import conversation_of, unit_gradients, units_of
from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.statements import MemoryItem
from tests.client.framed_help import some_texts, some_theta, tiny_frame, tiny_model

pytest.importorskip("opacus", reason="private training needs opacus: pip install 'penchant[train]'")

LABELS = ("monday", "letter", "monday", "tuesday", "letter", "monday")
SETTINGS = PrivateSettings(
    epsilon=8.0, delta=1e-3, epochs=1.0, sampling_rate=0.25, clip_norm=0.5, learning_rate=0.1, optimiser="sgd"
)


def test_equal_labels_belong_together_in_the_order_in_which_they_appear() -> None:
    units = units_of(LABELS)
    assert [members.tolist() for members in units.members] == [[0, 2, 5], [1, 4], [3]]
    assert units.count == 3
    assert [members.tolist() for members in units_of(range(3)).members] == [[0], [1], [2]]


@pytest.mark.parametrize("rows", [1, 2, 16])
def test_a_units_gradient_is_the_sum_of_its_examples(rows: int) -> None:
    model, frame, theta = tiny_model(), tiny_frame(), some_theta(3)
    examples = prepare_examples(model, some_texts())
    gradients_of = partial(example_gradients, model, frame, examples, theta=theta)
    each = example_gradients(model, frame, examples, np.arange(6), theta)
    found = unit_gradients(gradients_of, units_of(LABELS), np.array([2, 0]), frame.dimension, rows)
    assert np.allclose(found, [each[3], each[0] + each[2] + each[5]], rtol=1e-4, atol=1e-6)
    empty = unit_gradients(gradients_of, units_of(LABELS), np.array([], dtype=np.int64), frame.dimension, rows)
    assert empty.shape == (0, frame.dimension)


def test_units_of_single_texts_are_the_example_level_bit_for_bit() -> None:
    model, frame, theta = tiny_model(), tiny_frame(), some_theta(5)
    examples = prepare_examples(model, some_texts())
    sampled = np.array([1, 3, 4])
    each = example_gradients(model, frame, examples, sampled, theta)
    gradients_of = partial(example_gradients, model, frame, examples, theta=theta)
    as_units = unit_gradients(gradients_of, units_of(range(6)), sampled, frame.dimension, 16)
    assert np.array_equal(each, as_units)
    runs = [
        train_privately(
            model, frame, some_texts(), theta, SETTINGS, units=units, generator=np.random.default_rng(2)
        ).theta
        for units in (None, units_of("abcdef"))
    ]
    assert np.array_equal(runs[0], runs[1])


def test_removing_a_whole_unit_moves_the_sum_by_at_most_the_clip_norm() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 6, size=30).tolist()
    # Examples of one unit that point the same way add up: clipped one by one they would move the sum by far more.
    directions = random.normal(size=(6, 7))
    rows = directions[labels] * 10.0 ** random.uniform(-1, 2, size=(30, 1))
    units = units_of(labels)
    everyone = np.arange(units.count)
    whole = clipped_sum(unit_gradients(lambda index: rows[index], units, everyone, 7, 4), 0.7)
    alone = clipped_sum(rows, 0.7)
    for unit in everyone:
        left = np.delete(everyone, unit)
        without = clipped_sum(unit_gradients(lambda index: rows[index], units, left, 7, 4), 0.7)
        assert 1e-3 < np.linalg.norm(whole - without) <= 0.7 * (1 + 1e-9)
    moved = alone - clipped_sum(np.delete(rows, units.members[0], axis=0), 0.7)
    assert np.linalg.norm(moved) > 2 * 0.7  # the danger is real


def test_a_group_step_is_replayed_by_hand() -> None:
    """Wrong sampling unit, sum, clip, noise or divisor fails."""
    model, frame, texts, theta = tiny_model(), tiny_frame(), some_texts(), some_theta(6)
    start, units = theta.copy(), units_of(LABELS)
    result = train_privately(model, frame, texts, start, SETTINGS, units=units, generator=np.random.default_rng(11))
    random, examples = np.random.default_rng(11), prepare_examples(model, texts)
    sizes = []
    for _ in range(result.steps):
        chosen = np.flatnonzero(random.random(3) < 0.25)
        sizes.append(len(chosen))
        total = np.zeros(frame.dimension)
        for unit in chosen:
            summed = example_gradients(model, frame, examples, units.members[unit], theta).sum(0)
            total += summed * min(1.0, 0.5 / np.linalg.norm(summed))
        total += random.normal(0.0, result.noise_multiplier * 0.5, frame.dimension)
        theta = theta - 0.1 * total / (0.25 * 3)
    assert np.allclose(result.theta, theta, atol=1e-6) and max(sizes) > 0


def test_a_unit_with_a_number_that_is_not_finite_counts_as_nothing() -> None:
    rows = np.array([[0.1, 0.0], [np.nan, 1.0], [0.0, 0.2]])
    sums = unit_gradients(lambda index: rows[index], units_of("aab"), np.array([0, 1]), 2, 16)
    mean = noisy_mean(sums, 1.0, 0.0, 1.0, np.random.default_rng(0))
    assert np.allclose(mean, [0.0, 0.2])


def test_what_belongs_together_on_a_device() -> None:
    def item(number: int, source: str, day: str, document: str = "") -> str:
        return conversation_of(MemoryItem(number, "x", "", day, source, "2026-01-09", document=document))

    assert (
        item(1, "file", "2026-01-01", "d1")
        == item(2, "file", "2026-01-02", "d1")
        != item(3, "file", "2026-01-01", "d2")
    )
    assert item(4, "chat", "2026-01-01") == item(5, "chat", "2026-01-01")
    assert len({item(6, "chat", "2026-01-01"), item(7, "me", "2026-01-01"), item(8, "chat", "2026-01-02")}) == 3
    choice = conversation_of(Preference(1, "p", "a", "b", "2026-01-01"))
    assert choice == conversation_of(Preference(2, "q", "c", "d", "2026-01-01"))
    assert choice not in {item(9, "me", "2026-01-01"), conversation_of(Preference(1, "p", "a", "b", "2026-01-02"))}
