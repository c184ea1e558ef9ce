"""The parts of the score, one by one."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.memory.ranking import age_ranks, diverse_order, nearness, ranks, word_weight


def test_a_rarer_word_weighs_more_and_every_word_something() -> None:
    weights = [word_weight(1000, holding) for holding in (0, 1, 10, 500, 1000)]
    assert weights == sorted(weights, reverse=True) and weights[-1] > 0
    assert word_weight(1000, 1) == pytest.approx(np.log(1 + 999.5 / 1.5))


def test_a_small_memory_does_not_make_its_words_common() -> None:
    assert word_weight(1, 1) == word_weight(50, 1) > 3


def test_nearness_falls_from_the_period_on_both_sides() -> None:
    days = np.array([93, 100, 105, 110, 117, 131])
    near = nearness(days, [(100, 110)])
    assert near.tolist() == pytest.approx(np.exp([-1, 0, 0, 0, -1, -3]).tolist())
    assert nearness(days, [(100, 110), (131, 131)])[-1] == 1.0 and not nearness(days, []).any()


def test_newest_first_equal_ages_share_and_the_future_is_today() -> None:
    assert age_ranks(np.array([10, 30, 30, 20, 99]), today=30).tolist() == [3, 1, 1, 2, 1]


def test_ranks_share_the_better_place() -> None:
    assert ranks(np.array([0.5, 0.9, 0.5, 0.1], np.float32)).tolist() == [2, 1, 2, 4]


def test_repetitions_come_after_everything_else() -> None:
    vectors = np.array([[1, 0], [0.999, 0.0447], [0, 1], [1, 0]], np.float32)
    assert diverse_order([0, 1, 3, 2], vectors, 2) == [0, 2]
    assert diverse_order([0, 1, 3, 2], vectors, 4) == [0, 2, 1, 3]
    assert diverse_order([], vectors, 3) == []
