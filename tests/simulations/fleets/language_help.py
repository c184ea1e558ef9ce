"""A tiny language model, a frame on it and people's texts for the tests of fleets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from client.torch_model import Text, TorchModel
from protocol.frames import Frame
from tests.edge_runtime.model_helpers import random_tokens
from tests.tiny_model import write_tiny_model


def tiny(folder: Path, dtype: torch.dtype = torch.float32, top_layers: int = 2) -> TorchModel:
    return TorchModel.load(write_tiny_model(folder / "tiny.gguf", 0), top_layers=top_layers, dtype=dtype)


def frame_of(model: TorchModel, rank: int = 2) -> Frame:
    random, modules = np.random.default_rng(0), model.module_names(("attn_output", "ffn_down"))
    left, right = [], []
    for name in modules:
        outs, ins = model.linear(name).weight.shape
        left.append(np.linalg.qr(random.normal(size=(outs, rank)))[0].astype(np.float32))
        right.append(np.linalg.qr(random.normal(size=(ins, rank)))[0].T.astype(np.float32))
    return Frame("a" * 64, rank, 4.0, modules, tuple(left), tuple(right))


def texts_of(person: int, count: int) -> list[Text]:
    """Texts of 10 to 19 tokens, the first four of which are a prompt."""
    return [(random_tokens(100 * person + n, 10 + (3 * person + 5 * n) % 10), 4) for n in range(count)]
