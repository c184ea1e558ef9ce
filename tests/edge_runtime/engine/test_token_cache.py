"""The evaluated tokens of a context: reuse, truncation, and batches that never hold a single token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.engine.engine import Engine
from edge_runtime.engine.token_cache import BATCH_TOKENS, TokenCache, _batches
from tests.edge_runtime.model_helpers import open_tiny, random_tokens


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("cache")) as opened:
        yield opened


@pytest.fixture
def cache(engine: Engine) -> TokenCache:
    engine._cache.clear()
    return engine._cache


@given(st.integers(0, 5 * BATCH_TOKENS))
def test_batches_cover_everything_and_none_is_a_single_token(count: int) -> None:
    bounds = list(_batches(count))
    assert [index for start, stop in bounds for index in range(start, stop)] == list(range(count))
    assert all(0 < stop - start <= BATCH_TOKENS for start, stop in bounds)
    assert count == 1 or all(stop - start > 1 for start, stop in bounds)


@pytest.mark.parametrize("steady", [False, True])
def test_a_prompt_that_is_partly_held_gives_the_same_logits(cache: TokenCache, steady: bool) -> None:
    prompt = random_tokens(0, 50)
    cache.fill(prompt, steady=steady)
    fresh = cache.last_logits()
    for held in (
        [*prompt[:20], *random_tokens(1, 60)],
        prompt[:49],
        prompt,
        [prompt[0]],
        random_tokens(2, 9),
    ):
        cache.clear()
        cache.fill(held, steady=steady)
        cache.fill(prompt, steady=steady)
        assert cache.tokens == prompt
        np.testing.assert_allclose(cache.last_logits(), fresh, atol=1e-9 if steady else 1e-2)


def test_steady_evaluation_does_not_reuse_what_was_evaluated_alone(cache: TokenCache) -> None:
    prompt = random_tokens(3, 30)
    cache.fill(prompt, steady=True)
    fresh = cache.last_logits()
    cache.clear()
    for token in prompt:
        cache.extend([token])
    cache.fill(prompt, steady=True)
    np.testing.assert_allclose(cache.last_logits(), fresh, atol=1e-9)


def test_scoring_gives_one_value_per_token_and_the_cache_grows_by_all_but_the_last(cache: TokenCache) -> None:
    prompt, text = random_tokens(4, 10), random_tokens(5, 8)
    cache.fill(prompt)
    epoch = cache.epoch
    assert cache.extend_scoring(text).shape == (7,)
    assert cache.tokens == [*prompt, *text[:-1]] and cache.epoch == epoch
    cache.keep(10)
    assert cache.tokens == prompt and cache.epoch > epoch
    assert cache.extend_scoring([5]).shape == (0,)
