"""The three rankings and their fusion."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.memory.ranking import (
    fuse_ranks,
    match_expression,
    rank_by_similarity,
    ranks_by_age,
    ranks_in_order,
)


def test_telling_words_only_and_quoted() -> None:
    assert match_expression('What is my "dog" called, OR dog NEAR x?') == '"dog" OR "called" OR "near" OR "x"'
    assert match_expression("what is it") == "" and match_expression("Žofie čte") == '"žofie" OR "čte"'


def test_similarity_best_first_above_the_floor_and_at_most_the_limit() -> None:
    similarities = np.array([0.2, 0.9, 0.5, 0.7, 0.24], np.float32)
    assert rank_by_similarity(similarities, 0.25, 10).tolist() == [1, 3, 2]
    assert rank_by_similarity(similarities, 0.0, 2).tolist() == [1, 3]
    assert rank_by_similarity(np.empty(0, np.float32), 0.0, 5).tolist() == []


def test_newest_first_equal_ages_share_and_the_future_is_today() -> None:
    assert ranks_by_age({1: 10, 2: 30, 3: 30, 4: 20, 5: 99}, today=30) == {5: 1, 2: 1, 3: 1, 4: 2, 1: 3}


def test_fusion_adds_weighted_reciprocal_ranks() -> None:
    fused = dict(fuse_ranks({"bm25": ranks_in_order([7, 8]), "dense": {8: 1}, "recency": {7: 1, 8: 4}}))
    assert fused[7] == pytest.approx(1 / 11 + 0.05 / 11) and fused[8] == pytest.approx(1 / 12 + 1 / 11 + 0.05 / 14)
    assert [item for item, _ in fuse_ranks({"dense": {1: 1}, "bm25": {2: 1}})] == [
        2,
        1,
    ]  # a tie: the newer id


def test_recency_cannot_lift_what_the_others_rank_lower() -> None:
    relevant_first = fuse_ranks({"bm25": {1: 1, 2: 2}, "recency": {1: 50, 2: 1}})
    assert [item for item, _ in relevant_first] == [1, 2]
