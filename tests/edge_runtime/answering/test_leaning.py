"""The sign of a leaning is read from the owner's words: towards what is liked, away from what is disliked."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.answering.leaning import leanings, signed_parts
from tests.edge_runtime.memory_helpers import HashingEmbedder


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("I like tea.", [("tea", 1)]),
        ("I hate podcasts.", [("podcasts", -1)]),
        ("I avoid gluten.", [("gluten", -1)]),
        ("I am allergic to walnuts.", [("walnuts", -1)]),
        ("My sister likes tea.", []),
    ],
)
def test_claims_carry_their_sign(statement: str, expected: list[tuple[str, int]]) -> None:
    claims = [part for part in signed_parts(statement) if len(part[0].split()) == 1]
    assert claims == expected


def test_clauses_stand_in_where_nothing_is_claimed() -> None:
    parts = dict(signed_parts("It is difficult to read long reports, but short lists work well for me"))
    assert parts["It is difficult to read long reports"] == -1
    assert parts["short lists work well for me"] == 1


def test_what_is_disliked_ranks_last_and_what_is_liked_first() -> None:
    embedder = HashingEmbedder()
    liked, disliked, other = leanings(
        ["I like tea.", "I hate podcasts."], ["a cup of tea", "two podcasts", "an open window"], embedder
    )
    assert liked > other > disliked
    # turned round, so does the order
    turned = leanings(["I hate tea.", "I like podcasts."], ["a cup of tea", "two podcasts"], embedder)
    assert turned[0] < turned[1]


def test_nothing_said_leans_nowhere_and_loads_nothing() -> None:
    embedder = HashingEmbedder()
    np.testing.assert_array_equal(leanings([], ["a", "b"], embedder), [0.0, 0.0])
    assert leanings(["I like tea."], [], embedder).shape == (0,)
    assert embedder.batches == []
