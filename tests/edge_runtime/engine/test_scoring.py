"""The scoring context: reuse, truncation, and batches that never hold a single token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.engine.contexts import BATCH_TOKENS, Segment, Weights
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.scoring import Scorer, batches
from tests.edge_runtime.model_helpers import load_factors, open_tiny, random_factors, random_tokens

BASE = Weights("0" * 64)


def segments(tokens: list[int], weights: Weights = BASE) -> list[Segment]:
    return [Segment(weights, np.array(tokens, dtype=np.int32))]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("scoring")) as opened:
        yield opened


@pytest.fixture
def scorer(engine: Engine) -> Scorer:
    scorer = engine._scorer()
    scorer.clear()
    return scorer


@given(st.integers(0, 5 * BATCH_TOKENS))
def test_batches_cover_everything_and_none_is_a_single_token(count: int) -> None:
    bounds = list(batches(count))
    assert [index for start, stop in bounds for index in range(start, stop)] == list(range(count))
    assert all(0 < stop - start <= BATCH_TOKENS for start, stop in bounds)
    assert count == 1 or all(stop - start > 1 for start, stop in bounds)


def test_a_prompt_that_is_partly_held_gives_the_same_logits(scorer: Scorer) -> None:
    prompt = random_tokens(0, 50)
    scorer.fill(segments(prompt))
    fresh = scorer.last_logits()
    for held in ([*prompt[:20], *random_tokens(1, 60)], prompt[:49], prompt, [prompt[0]], random_tokens(2, 9)):
        scorer.clear()
        scorer.fill(segments(held))
        scorer.fill(segments(prompt))
        assert scorer.entries == segments(prompt)[0].entries
        np.testing.assert_allclose(scorer.last_logits(), fresh, atol=1e-9)


def test_a_token_added_alone_comes_out_as_in_a_batch(scorer: Scorer) -> None:
    prompt = random_tokens(3, 30)
    scorer.fill(segments(prompt))
    fresh = scorer.last_logits()
    scorer.clear()
    for length in range(1, len(prompt) + 1):
        scorer.fill(segments(prompt[:length]))
    np.testing.assert_allclose(scorer.last_logits(), fresh, atol=1e-9)


def test_scoring_holds_the_prefix_afterwards_and_gives_one_value_per_token(scorer: Scorer) -> None:
    prompt, text = random_tokens(4, 10), random_tokens(5, 8)
    assert scorer.score(segments(prompt), segments(text)).shape == (8,)
    assert scorer.entries == segments(prompt)[0].entries
    assert scorer.score(segments(prompt), segments(text[:1])).shape == (1,)


def test_other_conversations_do_not_move_a_score(engine: Engine) -> None:
    prefix, text = random_tokens(6, 20), random_tokens(7, 20)
    before = engine.score(prefix, [text])[0]
    for seed in range(8, 12):
        list(engine.generate(random_tokens(seed, 60), max_tokens=4))
        engine.score(random_tokens(seed, 9), [text])
    np.testing.assert_array_equal(engine.score(prefix, [text])[0], before)


def test_activated_scores_do_not_depend_on_the_split_either(engine: Engine) -> None:
    adapter = load_factors(engine, random_factors(0), alpha=4.0)
    text = [*random_tokens(12, 40), *engine.answer_header, *random_tokens(13, 20)]
    base = engine.score(text[:1], [text[1:]])[0]
    engine.use_adapters([(adapter, 1.0)], activation="answer")
    whole = engine.score(text[:1], [text[1:]])[0]
    for cut in (2, 39, 40, 41, 40 + len(engine.answer_header), len(text) - 1):
        np.testing.assert_allclose(engine.score(text[:cut], [text[cut:]])[0], whole[cut - 1 :], atol=1e-9)
    engine.use_adapters([])
    np.testing.assert_array_equal(whole[:40], base[:40])  # up to and with the header's first token: base alone
    assert np.abs(whole[40:] - base[40:]).max() > 0.05
