"""The evolved base: trained weights in a new file that descends from the old one, and nothing else in it is new."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from client.torch_model import TorchModel
from edge_runtime.adapters.adapter_file import AdapterFile, AdapterMetadata
from edge_runtime.adapters.lineage import PARENT_KEY, check_lineage
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile, describe_model, read_model_header
from protocol.errors import PenchantError
from simulations.datasets.writing import DATA_VARIABLE
from simulations.studies.portability.evolved_base import Evolution, evolve, public_passages, write_evolved
from tests.client.framed_help import some_texts
from tests.edge_runtime.model_helpers import random_factors
from tests.tiny_model import write_tiny_model

SETTINGS = Evolution(texts=6, layers=1, batch_size=3, learning_rate=2e-3)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    return describe_model(write_tiny_model(tmp_path_factory.mktemp("models") / "old.gguf", 7))


def tensors(model: ModelFile) -> dict[str, bytes]:
    data = model.path.read_bytes()
    return {
        entry.name: data[entry.offset : entry.offset + entry.byte_count]
        for entry in read_model_header(model.path).tensors
    }


def test_it_learns_its_texts_and_descends(old: ModelFile, tmp_path: Path) -> None:
    shown: list[tuple[float, float]] = []
    texts = [*some_texts()] * 3
    weights = evolve(old, texts, SETTINGS, lambda fraction, loss: shown.append((fraction, loss)))
    assert [fraction for fraction, _ in shown] == pytest.approx([1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0])
    assert shown[-1][1] < shown[1][1] - 0.05  # the same texts again
    assert set(weights) == {f"blk.3.{kind}" for kind in ("attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")}
    new = write_evolved(old, weights, tmp_path / "new.gguf")
    before, after = tensors(old), tensors(new)
    assert {name.removesuffix(".weight") for name in before if before[name] != after[name]} == set(weights)
    for name, weight in weights.items():
        assert np.array_equal(np.frombuffer(after[f"{name}.weight"], "<f4"), weight.ravel())
    assert read_model_header(new.path).metadata[PARENT_KEY] == old.sha256
    adapter = AdapterFile(random_factors(0), 4.0, "llama", AdapterMetadata(old.sha256, ""))
    lineage = check_lineage(old, new, adapter)
    assert lineage.stated is True and 0.001 < lineage.relative < 0.3
    losses = []
    for model in (old, new):  # llama.cpp and torch both read what was written
        with Engine.open(model, context_tokens=128, threads=1) as engine:
            served = np.concatenate([engine.score(ids[:prompt], [ids[prompt:]])[0] for ids, prompt in texts[:6]])
        torch_model = TorchModel.load(model.path, top_layers=1, dtype=torch.float32)
        trained = np.concatenate([torch_model.log_probabilities(ids)[prompt - 1 :] for ids, prompt in texts[:6]])
        assert np.abs(served - trained).mean() < 0.01
        losses.append(-served.mean())
    assert losses[1] < losses[0] - 0.05


def test_weights_of_another_model_are_refused(old: ModelFile, tmp_path: Path) -> None:
    for weights in ({"blk.9.attn_v": np.zeros((32, 64))}, {"blk.3.attn_v": np.zeros((64, 64))}):
        with pytest.raises(PenchantError, match="has no blk"):
            write_evolved(old, {name: weight.astype(np.float32) for name, weight in weights.items()}, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_without_data_one_line_says_so(old: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(PenchantError, match=DATA_VARIABLE):
        public_passages(old, SETTINGS)
