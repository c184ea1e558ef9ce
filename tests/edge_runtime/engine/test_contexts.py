"""Soft prefixes and control vectors: they do what they say, and each is part of what a cache is known by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from gguf import GGUFReader

from edge_runtime.engine.contexts import BATCH_TOKENS, Segment, Weights, after
from edge_runtime.engine.engine import Engine
from protocol.errors import PenchantError
from tests.edge_runtime.model_helpers import load_factors, open_tiny, random_factors, random_tokens


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("contexts")) as opened:
        yield opened


def table_of(engine: Engine) -> np.ndarray:
    """The input embeddings, (vocabulary, 64)."""
    (table,) = (tensor.data for tensor in GGUFReader(engine.model.path).tensors if tensor.name == "token_embd.weight")
    return np.array(table)


def logits(engine: Engine, segments: list[Segment]) -> np.ndarray:
    sequences = engine._generation_sequences()
    sequences.fill(segments)
    return np.array(sequences.context.logits(1)[0])


@pytest.mark.parametrize("length", [1, 10, BATCH_TOKENS + 9])
def test_a_soft_prefix_of_token_embeddings_is_those_tokens(engine: Engine, length: int) -> None:
    prefix, prompt = random_tokens(0, length), random_tokens(1, 20)
    weights, rows = Weights(engine.model.sha256), table_of(engine)[prefix]
    as_tokens = logits(engine, [Segment(weights, np.array([*prefix, *prompt], dtype=np.int32))])
    soft = Segment(weights, np.zeros(length, dtype=np.int32), rows)
    as_rows = logits(engine, [soft, Segment(weights, np.array(prompt, dtype=np.int32))])
    np.testing.assert_allclose(as_rows, as_tokens, atol=1e-2)
    answer = list(engine.generate([*prefix, *prompt], max_tokens=8))
    assert list(engine.generate(prompt, max_tokens=8, soft_prefix=rows)) == answer


def test_another_soft_prefix_is_not_met_by_the_cache_of_the_first(engine: Engine) -> None:
    prompt = random_tokens(2, 20)
    rng = np.random.default_rng(0)
    one, other = (rng.standard_normal((5, 64)).astype(np.float32) for _ in range(2))
    fresh = {}
    for name, rows in (("one", one), ("other", other), ("none", None)):
        engine.forget_texts()
        fresh[name] = list(engine.generate(prompt, max_tokens=10, soft_prefix=rows))
    assert len({tuple(answer) for answer in fresh.values()}) == 3
    engine.forget_texts()
    for name, rows in (("one", one), ("other", other), ("none", None), ("one", one), ("none", None)):
        assert list(engine.generate(prompt, max_tokens=10, soft_prefix=rows)) == fresh[name]


def test_entries_of_a_cut_segment_are_those_of_the_whole(engine: Engine) -> None:
    rows = np.random.default_rng(1).standard_normal((7, 64)).astype(np.float32)
    whole = [
        Segment(Weights("0" * 64), np.zeros(7, dtype=np.int32), rows),
        Segment(Weights("0" * 64), np.arange(5, dtype=np.int32)),
    ]
    entries = [entry for segment in whole for entry in segment.entries]
    assert len(set(entries)) == 12
    for count in range(13):
        assert [entry for part in after(whole, count) for entry in part.entries] == entries[count:]


@pytest.mark.parametrize("shape", [(0, 64), (3, 63), (64,), (600, 64)])
def test_soft_prefixes_that_do_not_fit_are_refused(engine: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(PenchantError):
        engine.generate([5], max_tokens=1, soft_prefix=np.zeros(shape, dtype=np.float32))
    with pytest.raises(PenchantError, match="finite"):
        engine.generate([5], max_tokens=1, soft_prefix=np.full((2, 64), np.nan, dtype=np.float32))


def test_a_control_vector_moves_scores_and_none_restores_them_exactly(engine: Engine) -> None:
    prefix, tokens = random_tokens(3, 20), random_tokens(4, 20)
    control = (0.5 * np.random.default_rng(2).standard_normal((3, engine.embeddings_width))).astype(np.float32)
    before, answer = engine.score(prefix, [tokens])[0], list(engine.generate(prefix, max_tokens=40))
    engine.use_control_vector(control)
    steered = engine.score(prefix, [tokens])[0]
    assert np.abs(steered - before).max() > 0.1
    assert list(engine.generate(prefix, max_tokens=40)) != answer
    engine.use_control_vector(None)
    np.testing.assert_array_equal(engine.score(prefix, [tokens])[0], before)
    assert list(engine.generate(prefix, max_tokens=40)) == answer
    engine.use_control_vector(2 * control)
    assert np.abs(engine.score(prefix, [tokens])[0] - steered).max() > 0.1


def test_row_i_is_added_behind_layer_i_plus_one(engine: Engine) -> None:
    """Behind the last layer: the hidden state before the final norm moves by that row, so that a large row alone
    decides its direction.
    """
    control = np.zeros((3, 64), dtype=np.float32)
    control[2] = 1e4 * np.random.default_rng(3).standard_normal(64)
    engine.use_control_vector(control)
    hidden = engine.hidden(random_tokens(5, 10))
    cosine = hidden @ control[2] / np.linalg.norm(hidden) / np.linalg.norm(control[2])
    assert cosine > 0.999


def test_a_control_vector_and_adapters_stand_together(engine: Engine) -> None:
    tokens = random_tokens(6, 20)
    control = np.full((3, 64), 0.1, dtype=np.float32)
    adapter = load_factors(engine, random_factors(0), alpha=4.0)
    engine.use_adapters([(adapter, 1.0)])
    alone = engine.score([5], [tokens])[0]
    engine.use_control_vector(control)
    both = engine.score([5], [tokens])[0]
    engine.use_adapters([])
    control_only = engine.score([5], [tokens])[0]
    engine.use_adapters([(adapter, 1.0)])
    np.testing.assert_array_equal(engine.score([5], [tokens])[0], both)
    assert np.abs(both - alone).max() > 0.01 and np.abs(both - control_only).max() > 0.01


@pytest.mark.parametrize("shape", [(4, 64), (3, 63), (3,)])
def test_control_vectors_of_another_shape_are_refused(engine: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(PenchantError, match=r"\(3, 64\)"):
        engine.use_control_vector(np.zeros(shape, dtype=np.float32))
    with pytest.raises(PenchantError):
        engine.use_control_vector(np.full((3, 64), np.inf, dtype=np.float32))
