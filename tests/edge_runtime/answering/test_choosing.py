"""A choice adds the owner's leaning to what the model expects, with the stated weight, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.answering.choosing import LEANING_WEIGHT, choose
from edge_runtime.answering.leaning import leanings
from edge_runtime.engine.engine import Engine
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny

OPTIONS = ["the tea", "another coffee", "in the inn"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(Path(tmp_path_factory.mktemp("model"))) as opened:
        yield opened


def test_without_statements_the_likelihood_decides(engine: Engine) -> None:
    ranked = choose(engine, HashingEmbedder(), "Which?", OPTIONS, [])
    assert [one.leaning for one in ranked] == [0.0] * 3
    assert [one.score for one in ranked] == sorted((one.likelihood for one in ranked), reverse=True)
    assert {one.option for one in ranked} == set(OPTIONS)


def test_statements_move_the_score_by_their_weighted_leaning(engine: Engine) -> None:
    embedder = HashingEmbedder()
    before = {one.option: one for one in choose(engine, embedder, "Which?", OPTIONS, [])}
    statements = ["I like tea.", "I hate coffee."]
    ranked = choose(engine, embedder, "Which?", OPTIONS, statements)
    expected = dict(zip(OPTIONS, leanings(statements, OPTIONS, embedder), strict=True))
    for one in ranked:
        assert one.likelihood == before[one.option].likelihood
        assert one.score == pytest.approx(one.likelihood + LEANING_WEIGHT * expected[one.option])
    assert ranked == sorted(ranked, key=lambda one: -one.score)
    assert ranked[0].option == "the tea"


def test_a_choice_needs_two_options(engine: Engine) -> None:
    for options in (["one"], [], ["one", " "]):
        with pytest.raises(PenchantError, match="two options"):
            choose(engine, HashingEmbedder(), "Which?", options, [])
