"""Where activated adapters begin to act, and that an adapter serves as it was trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.adapters.adapter_file import AdapterMetadata, write_adapter
from edge_runtime.engine.activation import activation_start, last_header
from edge_runtime.engine.engine import Adapter, ChatMessage, Engine
from protocol.errors import PenchantError
from tests.edge_runtime.model_helpers import load_factors, open_tiny, random_factors, random_tokens


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("activation")) as opened:
        yield opened


def activated(engine: Engine, seed: int, tokens: tuple[int, ...]) -> Adapter:
    data = write_adapter(
        random_factors(seed),
        alpha=4.0,
        metadata=replace(AdapterMetadata(engine.model.sha256, ""), invocation_tokens=tokens),
        architecture="llama",
        heads=4,
        kv_heads=2,
    )
    return engine.load_adapter(data, sha256=hashlib.sha256(data).hexdigest())


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), min_size=1, max_size=3))
def test_the_start_is_where_the_last_header_begins(tokens: list[int], header: list[int]) -> None:
    places = [at for at in range(len(tokens)) if tokens[at : at + len(header)] == header]
    assert last_header(tokens, header) == (places[-1] if places else None)
    if places:
        assert activation_start(tokens, header) == places[-1]
    else:
        with pytest.raises(PenchantError, match="header"):
            activation_start(tokens, header)


def test_the_header_is_what_the_template_writes(engine: Engine) -> None:
    prompt = engine.tokenise(engine.chat_prompt([ChatMessage("user", "the thing")]))
    header = engine.answer_header
    assert engine.detokenise(header, special=True) == "<|im_start|>assistant\n"
    assert activation_start(prompt, header) == len(prompt) - len(header)


def test_an_adapter_that_trained_activated_serves_activated(engine: Engine) -> None:
    header = engine.answer_header
    text = [*random_tokens(0, 30), *header, *random_tokens(1, 20)]
    asked = load_factors(engine, random_factors(0), alpha=4.0)
    engine.use_adapters([(asked, 1.0)], activation="answer")
    expected = engine.score(text[:1], [text[1:]])[0]
    engine.use_adapters([(activated(engine, 0, header), 1.0)])
    np.testing.assert_array_equal(engine.score(text[:1], [text[1:]])[0], expected)
    engine.use_adapters([(asked, 1.0)])
    assert np.abs(engine.score(text[:1], [text[1:]])[0] - expected).max() > 0.05


def test_its_own_invocation_tokens_count(engine: Engine) -> None:
    text = [*random_tokens(2, 30), 7, 7, *random_tokens(3, 20)]
    base = engine.score(text[:1], [text[1:]])[0]
    engine.use_adapters([(activated(engine, 0, (7, 7)), 1.0)])
    scores = engine.score(text[:1], [text[1:]])[0]
    np.testing.assert_array_equal(scores[:30], base[:30])
    assert np.abs(scores[30:] - base[30:]).max() > 0.05


def test_without_a_header_nothing_is_answered_or_scored(engine: Engine) -> None:
    engine.use_adapters([(activated(engine, 0, (7, 7)), 1.0)])
    plain = random_tokens(4, 20)
    for call in (
        lambda: list(engine.generate(plain, max_tokens=1)),
        lambda: engine.score(plain, [[9]]),
        lambda: engine.hidden(plain),
    ):
        with pytest.raises(PenchantError, match="header"):
            call()
    engine.use_adapters([])
    assert len(engine.score(plain, [[9]])[0]) == 1


def test_adapters_that_begin_elsewhere_are_not_mixed(engine: Engine) -> None:
    always = load_factors(engine, random_factors(5), alpha=4.0)
    with pytest.raises(PenchantError, match="different places"):
        engine.use_adapters([(always, 1.0), (activated(engine, 0, (7, 7)), 1.0)])
    with pytest.raises(PenchantError, match="different places"):
        engine.use_adapters([(activated(engine, 1, (8,)), 1.0), (activated(engine, 0, (7, 7)), 1.0)])
