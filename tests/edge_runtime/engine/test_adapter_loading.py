"""Adapters in the engine: what is refused, what they change, how they mix, and that they leave nothing
behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest

from edge_runtime.adapters.adapter_file import mix_adapters
from edge_runtime.engine import adapter_loading
from edge_runtime.engine.engine import Engine
from protocol.errors import PenchantError
from tests.edge_runtime.model_helpers import (
    adapter_bytes,
    load_factors,
    open_tiny,
    random_factors,
    random_tokens,
)

PREFIX, TEXT = random_tokens(0, 10), random_tokens(1, 80)


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("adapters")) as opened:
        yield opened


def _score(engine: Engine) -> np.ndarray:
    return engine.score(PREFIX, [TEXT])[0]


def test_an_adapter_changes_the_scores_and_clearing_it_restores_them_exactly(engine: Engine) -> None:
    base, hidden = _score(engine), engine.hidden(TEXT)
    adapter = load_factors(engine, random_factors(0), alpha=4.0)
    np.testing.assert_array_equal(_score(engine), base)  # loading alone does nothing
    engine.use_adapters([(adapter, 1.0)])
    assert np.abs(_score(engine) - base).max() > 0.1
    assert np.abs(engine.hidden(TEXT) - hidden).max() > 0.01
    engine.use_adapters([])
    np.testing.assert_array_equal(_score(engine), base)
    np.testing.assert_array_equal(engine.hidden(TEXT), hidden)


def test_generation_sees_the_adapter_that_is_set_now(engine: Engine) -> None:
    """The cache of a prompt that was evaluated under another adapter must not be reused."""
    adapter = load_factors(engine, random_factors(0, size=1.0), alpha=4.0)
    plain = list(engine.generate(TEXT, max_tokens=12))
    engine.use_adapters([(adapter, 1.0)])
    adapted = list(engine.generate(TEXT, max_tokens=12))
    engine.use_adapters([])
    assert adapted != plain
    assert list(engine.generate(TEXT, max_tokens=12)) == plain
    engine.use_adapters([(adapter, 1.0)])
    assert list(engine.generate(TEXT, max_tokens=12)) == adapted


def test_the_scale_is_alpha_over_rank_times_the_scale_given(engine: Engine) -> None:
    factors = random_factors(0)
    once = load_factors(engine, factors, alpha=4.0)  # alpha / rank = 1
    engine.use_adapters([(once, 0.5)])
    half = _score(engine)
    engine.use_adapters([(load_factors(engine, factors, alpha=2.0), 1.0)])
    np.testing.assert_allclose(_score(engine), half, atol=1e-3)
    scaled = {name: (left, np.float32(0.5) * right) for name, (left, right) in factors.items()}
    engine.use_adapters([(load_factors(engine, scaled, alpha=0.0), 1.0)])
    np.testing.assert_allclose(_score(engine), half, atol=1e-3)
    engine.use_adapters([(once, 0.0)])
    base = _score(engine)
    engine.use_adapters([])
    np.testing.assert_array_equal(_score(engine), base)


def test_several_adapters_with_scales_equal_one_mixture(engine: Engine) -> None:
    parts = [(random_factors(seed, rank=2 + seed), weight) for seed, weight in enumerate((0.7, -0.4, 1.1))]
    base = _score(engine)
    loaded = [(load_factors(engine, factors, alpha=0.0), weight) for factors, weight in parts]
    engine.use_adapters(loaded)
    several = _score(engine)
    engine.use_adapters([(load_factors(engine, mix_adapters(parts), alpha=0.0), 1.0)])
    assert np.abs(several - base).max() > 0.1
    # The cache is float16: where a key or value falls on the other side of a rounding step, 1e-3 of its size.
    np.testing.assert_allclose(_score(engine), several, atol=2e-3)


def test_one_flipped_byte_is_refused_before_anything_parses_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    data = adapter_bytes(engine, random_factors(0), alpha=4.0)
    digest = hashlib.sha256(data).hexdigest()

    def never(*_: object) -> None:
        raise AssertionError("altered bytes were parsed")

    monkeypatch.setattr(adapter_loading, "read_adapter_metadata", never)
    monkeypatch.setattr(adapter_loading, "_init_from_bytes", never)
    for place in (0, 30, len(data) // 2, len(data) - 1):
        altered = bytearray(data)
        altered[place] ^= 1
        with pytest.raises(PenchantError, match="digest") as caught:
            engine.load_adapter(bytes(altered), sha256=digest)
        assert "\n" not in str(caught.value)


def test_an_adapter_of_another_base_is_refused_in_one_line(engine: Engine) -> None:
    data = adapter_bytes(engine, random_factors(0), alpha=4.0, base_sha256="f" * 64)
    with pytest.raises(PenchantError, match="another base model") as caught:
        engine.load_adapter(data, sha256=hashlib.sha256(data).hexdigest())
    assert "\n" not in str(caught.value)


def test_an_adapter_whose_shapes_do_not_fit_is_refused_in_one_line(engine: Engine) -> None:
    wrong = random_factors(0, shapes={"attn_v": (64, 64)})
    with pytest.raises(PenchantError, match="refused") as caught:
        load_factors(engine, wrong, alpha=4.0)
    assert "\n" not in str(caught.value)
    assert len(_score(engine)) == len(TEXT)  # the engine goes on


def test_digests_that_are_no_digests_are_refused(engine: Engine) -> None:
    data = adapter_bytes(engine, random_factors(0), alpha=4.0)
    for digest in ("", "é" * 64, "0" * 64):
        with pytest.raises(PenchantError):
            engine.load_adapter(data, sha256=digest)


def test_loading_twice_and_unloading(engine: Engine) -> None:
    factors = random_factors(0)
    adapter = load_factors(engine, factors, alpha=4.0)
    assert load_factors(engine, factors, alpha=4.0) is adapter
    assert adapter.metadata.base_sha256 == engine.model.sha256
    engine.use_adapters([(adapter, 1.0)])
    with pytest.raises(PenchantError, match="in use"):
        engine.unload_adapter(adapter)
    engine.use_adapters([])
    engine.unload_adapter(adapter)
    with pytest.raises(PenchantError, match="not loaded"):
        engine.use_adapters([(adapter, 1.0)])


def test_an_answer_under_way_never_meets_a_freed_adapter(engine: Engine) -> None:
    adapter = load_factors(engine, random_factors(0), alpha=4.0)
    engine.use_adapters([(adapter, 1.0)])
    begun, waiting = (engine.generate(PREFIX, max_tokens=400, lookup=True) for _ in range(2))
    next(begun)
    engine.use_adapters([])
    engine.unload_adapter(adapter)
    with pytest.raises(PenchantError, match="ask again"):
        list(begun)
    with pytest.raises(PenchantError, match="not loaded"):
        list(waiting)


def test_changing_the_set_leaves_an_answer_under_way_with_its_own(engine: Engine) -> None:
    adapter = load_factors(engine, random_factors(0, size=1.0), alpha=4.0)
    plain = list(engine.generate(TEXT, max_tokens=12))
    stream = engine.generate(TEXT, max_tokens=12)
    first = next(stream)
    engine.use_adapters([(adapter, 1.0)])
    assert [first, *stream] == plain
    assert list(engine.generate(TEXT, max_tokens=12)) != plain


def test_sets_that_make_no_sense_are_refused(engine: Engine) -> None:
    adapter = load_factors(engine, random_factors(0), alpha=4.0)
    with pytest.raises(PenchantError, match="finite"):
        engine.use_adapters([(adapter, float("nan"))])
    with pytest.raises(PenchantError, match="twice"):
        engine.use_adapters([(adapter, 1.0), (adapter, 2.0)])


def test_closing_with_adapters_in_use_is_safe(engine: Engine) -> None:
    engine.use_adapters([(load_factors(engine, random_factors(seed), alpha=4.0), 1.0) for seed in range(3)])
    engine.close()


def test_the_route_without_fmemopen_gives_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load_factors(engine, random_factors(0), alpha=4.0)
    engine.use_adapters([(adapter, 1.0)])
    expected = _score(engine)
    engine.use_adapters([])
    engine.unload_adapter(adapter)
    monkeypatch.setattr(adapter_loading, "_c_library", lambda: None)
    engine.use_adapters([(load_factors(engine, random_factors(0), alpha=4.0), 1.0)])
    np.testing.assert_array_equal(_score(engine), expected)
