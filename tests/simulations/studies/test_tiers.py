"""The study of tiers on the tiny model: where each tier's numbers live, what is trained, and how a table is made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from client.frame_builder import build_frame
from client.lora_layout import LoraLayout
from edge_runtime.adapters.adapter_file import read_adapter
from edge_runtime.models.catalogue import describe_model, read_model_shape
from protocol.frames import Frame, carry
from simulations.studies.tiers import EPSILON, KINDS, TIERS, Bench, Tier, arm_name, arms, summary
from tests.client.framed_help import some_texts, tiny_gguf, tiny_model

THIN = Tier("thin frame", False, 2, 0.05, 0.01)
WIDE = Tier("wide frame", False, 5, 0.05, 0.01)
LORA = Tier("LoRA", True, 3, 0.01, 0.01)


@pytest.fixture(scope="module")
def bench() -> Bench:
    model = describe_model(tiny_gguf())
    frame = build_frame(tiny_model(), model.sha256, some_texts(), kinds=KINDS, rank=5)
    shop: Any = SimpleNamespace(model=model, torch_model=tiny_model(), frame=frame, shape=read_model_shape(model.path))
    return Bench(shop)


def test_the_frames_are_nested_and_lora_is_of_all_maps(bench: Bench) -> None:
    thin, wide, lora = (bench.space(tier) for tier in (THIN, WIDE, LORA))
    assert isinstance(thin, Frame) and isinstance(wide, Frame) and isinstance(lora, LoraLayout)
    assert thin.modules == wide.modules and (len(wide.modules), len(lora.modules)) == (4, 14)
    assert (thin.dimension, wide.dimension) == (4 * 4, 4 * 25)
    assert lora.dimension == 3 * sum(out + inner for out, inner in lora.shapes)
    assert carry(np.ones(thin.dimension), thin, wide)[1] == pytest.approx(1.0)


@pytest.mark.parametrize("tier", [THIN, WIDE, LORA])
@pytest.mark.parametrize("epsilon", [None, 8.0])
def test_every_arm_trains_an_adapter_for_the_file_that_serves(bench: Bench, tier: Tier, epsilon: float | None) -> None:
    if epsilon is not None:
        pytest.importorskip("opacus", reason="private training needs opacus")
    data, seconds = bench.trained(tier, some_texts(), epsilon, seed=1)
    adapter = read_adapter(data)
    assert adapter.alpha == tier.rank and seconds > 0
    assert adapter.metadata.base_sha256 == bench.shop.model.sha256
    assert all(np.abs(b).max() > 0 for _, b in adapter.factors.values())
    assert data == bench.trained(tier, some_texts(), epsilon, seed=1)[0]
    if epsilon is not None:  # noise that is drawn from the seed
        assert data != bench.trained(tier, some_texts(), epsilon, seed=2)[0]


def test_every_tier_is_trained_with_and_without_privacy() -> None:
    names = [arm_name(tier, epsilon) for tier, epsilon in arms()]
    assert len(set(names)) == 2 * len(TIERS) and "LoRA" in names and f"LoRA, epsilon {EPSILON:g}" in names


def test_gains_are_relative_to_the_model_alone() -> None:
    def row(none: float, lora: float) -> dict[str, Any]:
        losses = {"LoRA": lora, "wide frame": none}
        return {"none": none, "losses": losses, "stranger": {"LoRA": none + 1}, "seconds": dict.fromkeys(losses, 2.0)}

    table = summary([row(4.0, 3.0), row(2.0, 1.5)])
    assert table["gain"]["LoRA"][0] == pytest.approx(0.25) and table["gain"]["wide frame"][0] == 0.0
    assert table["stranger_gain"]["LoRA"][0] == pytest.approx(-0.375)
    assert table["LoRA_against_wide_frame"][0] == pytest.approx(0.25) and table["seconds"]["LoRA"] == 2.0
