"""The study of temporary adapters: nothing is scored after it was learnt, and gains are paired."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from client.temporary_adapter import TemporarySettings
from client.torch_model import TorchModel
from edge_runtime.models.catalogue import describe_model
from simulations.studies import temporary as study
from simulations.studies.personal_fleet import Workshop
from tests.client.framed_help import TOP_LAYERS, tiny_frame, tiny_gguf

SETTINGS = TemporarySettings(chunk=24, overlap=8, passes=3, learning_rate=0.05)


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    model = describe_model(tiny_gguf())
    torch_model = TorchModel.load(model.path, top_layers=TOP_LAYERS, dtype=torch.float32)
    with closing(Workshop(model, torch_model, replace(tiny_frame(), base_sha256=model.sha256))) as opened:
        yield opened


class Embedder:
    """Texts are near if they begin alike."""

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.array([[float(text[:1] == letter) for letter in "abcdefgh"] for text in texts])


def test_each_chunk_is_scored_before_it_is_learnt(shop: Workshop) -> None:
    tokens = tuple(shop.engine.tokenise("the thing in the other thing " * 16, special=False)[:120])
    row = study.read_document(shop, study.Document("x", tokens), SETTINGS, study.ARMS, Embedder())  # type: ignore[arg-type]
    assert [count for _, count in row["sums"]["short"]] == [24] * 4
    assert all(len(part) == 4 for part in row["sums"].values())
    losses = study.losses_of(row)
    assert losses["temporary"] < losses["short"]  # it repeats itself
    # the second chunk: the adapter has read the first alone, whatever comes later
    other = study.read_document(shop, study.Document("x", tokens[:48] + tokens[:24]), SETTINGS, study.ARMS[:2], None)
    assert other["sums"]["temporary"][0] == row["sums"]["temporary"][0]
    assert set(other["sums"]) == {"short", "temporary"} and shop.engine.active_adapters == ()


def test_gains_are_paired_and_followed_over_the_chunks() -> None:
    rows = [
        {"sums": {"short": [[40.0, 10], [60.0, 10]], "temporary": [[40.0, 10], [60.0 - gain, 10]]}}
        for gain in (10.0, 20.0)
    ]
    found = study.summary(rows)
    assert found["gains"]["temporary over short"] == pytest.approx((0.75, -2.427, 3.927), abs=1e-2)
    assert found["by_chunk"] == pytest.approx([0.0, 1.5]) and found["documents"] == 2
    assert found["losses"]["short"][0] == 5.0
