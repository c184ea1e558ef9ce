from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.hidden_states import HiddenStates
from edge_runtime.forgetting import forget, forget_everything
from edge_runtime.reward import features as module
from edge_runtime.reward.features import RewardFeatures
from edge_runtime.reward.style import STYLE_NAMES, style_features
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from protocol.feature_map import SOURCES, fit_feature_map
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny

PAIRS = [("Where to?", "To the sea."), ("Where to?", "To the hills, and soon!"), ("Who?", "You and I.")]
WIDTH = 64 + 64 + len(STYLE_NAMES)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("tiny")) as opened:
        yield opened


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault.open(tmp_path / "home", bytes(32)) as opened:
        yield opened


def test_the_blocks_are_the_sources_in_their_order(engine: Engine) -> None:
    embedder = HashingEmbedder()
    features = RewardFeatures(engine, embedder, ["style", "hidden", "embedding"])
    raw = features.of(PAIRS)
    assert raw.shape == (3, WIDTH) and raw.dtype == np.float32 and features.dimension == WIDTH
    assert features.sources == SOURCES and list(features.widths) == list(SOURCES)
    np.testing.assert_array_equal(raw[:, :64], HiddenStates(engine).of(PAIRS))
    np.testing.assert_array_equal(raw[:, 64:128], embedder.embed([answer for _, answer in PAIRS]))
    np.testing.assert_array_equal(raw[:, 128:], np.stack([style_features(*pair) for pair in PAIRS]))
    assert features.of([]).shape == (0, WIDTH)


def test_only_what_is_used_must_be_there(engine: Engine) -> None:
    assert RewardFeatures(None, None, ["style"]).of(PAIRS).shape == (3, len(STYLE_NAMES))
    assert RewardFeatures(None, HashingEmbedder(), ["embedding"]).dimension == 64
    for sources, message in ((["hidden"], "engine"), (["embedding"], "embedder"), ([], "one or more"), (["x"], "one")):
        with pytest.raises(PenchantError, match=message):
            RewardFeatures(None, None, sources)  # type: ignore[arg-type]


def test_the_same_pair_twice_is_computed_once() -> None:
    embedder = HashingEmbedder()
    raw = RewardFeatures(None, embedder, ["embedding"]).of([PAIRS[0], PAIRS[1], PAIRS[0]])
    assert embedder.batches == [2]
    np.testing.assert_array_equal(raw[0], raw[2])
    assert np.abs(raw[0] - raw[1]).max() > 0


def test_what_was_computed_stays_in_the_vault(vault: Vault) -> None:
    embedder = HashingEmbedder()
    first = RewardFeatures(None, embedder, ["embedding", "style"], vault=vault).of(PAIRS[:2])
    again = RewardFeatures(None, embedder, ["embedding", "style"], vault=vault).of(PAIRS)
    assert embedder.batches == [2, 1]
    np.testing.assert_array_equal(again[:2], first)
    np.testing.assert_array_equal(again[2], RewardFeatures(None, embedder, ["embedding", "style"]).of(PAIRS[2:])[0])


def test_other_sources_or_models_do_not_meet_what_is_kept(vault: Vault, engine: Engine, tmp_path: Path) -> None:
    """Two engines of one shape: the rows have one length, so only their keys tell them apart."""
    mine = RewardFeatures(engine, None, ["hidden"], vault=vault).of(PAIRS)
    with open_tiny(tmp_path, seed=1) as other:
        theirs = RewardFeatures(other, None, ["hidden"], vault=vault).of(PAIRS)
        np.testing.assert_array_equal(theirs, HiddenStates(other).of(PAIRS))
    assert np.abs(mine - theirs).max() > 0.1
    RewardFeatures(None, None, ["style"], vault=vault).of(PAIRS)
    np.testing.assert_array_equal(RewardFeatures(engine, None, ["hidden"], vault=vault).of(PAIRS), mine)


def test_without_a_vault_nothing_is_kept(vault: Vault) -> None:
    RewardFeatures(None, None, ["style"]).of(PAIRS)
    assert vault.blob_names() == []


def test_the_oldest_make_room(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT_PAIRS", 2)
    embedder = HashingEmbedder()
    for pair in PAIRS:
        RewardFeatures(None, embedder, ["embedding"], vault=vault).of([pair])
    RewardFeatures(None, embedder, ["embedding"], vault=vault).of(PAIRS)
    assert embedder.batches == [1, 1, 1, 1]


@pytest.mark.parametrize("everything", [False, True])
def test_a_forget_drops_them(tmp_path: Path, everything: bool) -> None:
    with Device.open(tmp_path / "home", create=True, key_method="file", embedder=HashingEmbedder()) as device:
        item = device.memory.remember("My parrot recites Cavafy")
        device.memory.remember("I am called Ottoline")
        RewardFeatures(None, None, ["style"], vault=device.vault).of(PAIRS)
        held = device.vault.blob_names()
        receipt = forget_everything(device) if everything else forget(device, [item.id])[0]
        assert receipt.removed["learnt"] == 1
        assert len(held) == len(device.vault.blob_names()) + 1


def test_a_map_of_another_model_is_refused(engine: Engine) -> None:
    features = RewardFeatures(engine, None, ["hidden", "style"])
    raw = features.of([(prompt, f"{answer} {number}") for number in range(10) for prompt, answer in PAIRS])
    fitted = fit_feature_map(raw, features.widths, 8 + len(STYLE_NAMES) - 1, base_sha256=features.base_sha256)
    features.check(fitted)
    assert fitted.apply(raw).shape == (30, 7 + len(STYLE_NAMES))
    with pytest.raises(PenchantError, match="another model"):
        features.check(replace(fitted, base_sha256="0" * 64))
    with pytest.raises(PenchantError, match="another model"):
        RewardFeatures(None, None, ["style"]).check(fitted)
