"""An adapter from one preference makes saying it likelier, on the file that serves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from client.torch_model import TorchModel
from simulations.studies.decay.adapter import QUESTIONS, AdapterRecipe, preference_texts, train_adapter
from tests.edge_runtime.model_helpers import open_tiny


def test_the_preference_becomes_likelier(tmp_path: Path) -> None:
    recipe = AdapterRecipe(layers=2, passes=6, learning_rate=0.03)
    with open_tiny(tmp_path) as engine:
        texts = preference_texts(engine, "I dislike dill.")
        assert len(texts) == len(QUESTIONS)
        assert all("dill" in engine.detokenise(text[0][text[1] :]) for text in texts)
        model = TorchModel.load(engine.model.path, top_layers=recipe.layers, dtype=torch.float32)
        data = train_adapter(model, engine, texts, recipe)
        assert data == train_adapter(model, engine, texts, recipe)

        def loss() -> float:
            return -sum(float(engine.score(text[0][: text[1]], [text[0][text[1] :]])[0].sum()) for text in texts)

        before = loss()
        engine.use_adapters([(engine.load_adapter(data, sha256=hashlib.sha256(data).hexdigest()), 1.0)])
        assert loss() < 0.9 * before
