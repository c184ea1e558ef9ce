"""One tiny random model in torch, a frame on its top layers and a few texts of noise, shared by the tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.frame_builder import build_frame
from client.torch_model import TorchModel
from protocol.frames import Frame
from tests.tiny_model import write_tiny_model

TOP_LAYERS, RANK, SCALE = 2, 3, 1.5
KINDS = ("attn_q", "attn_v", "ffn_down")
BASE_SHA256 = "5" * 64
_folder = TemporaryDirectory(prefix="penchant-test-tiny-")


@cache
def tiny_gguf() -> Path:
    return write_tiny_model(Path(_folder.name) / "tiny.gguf", 7)


@cache
def tiny_model(dtype: torch.dtype = torch.float32) -> TorchModel:
    return TorchModel.load(tiny_gguf(), top_layers=TOP_LAYERS, dtype=dtype)


def plain_model() -> Any:
    """The same file as an untouched Hugging Face model in float32: the oracle."""
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        tiny_gguf().parent, gguf_file=tiny_gguf().name, dtype=torch.float32, local_files_only=True
    )
    return loaded.eval()


@cache
def some_texts(count: int = 6, seed: int = 0) -> list[tuple[list[int], int]]:
    """(tokens, prompt_length) of different lengths."""
    random = np.random.default_rng(seed)
    return [(random.integers(3, 270, size=12 + 3 * i).tolist(), 3 + i) for i in range(count)]


@cache
def tiny_frame() -> Frame:
    return build_frame(tiny_model(), BASE_SHA256, some_texts(), kinds=KINDS, rank=RANK, scale=SCALE)


def some_theta(seed: int = 0, size: float = 0.1) -> NDArray[np.float64]:
    return size * np.random.default_rng(seed).normal(size=tiny_frame().dimension)


@torch.no_grad()
def plain_log_probabilities(model: Any, tokens: list[int]) -> NDArray[np.float32]:
    ids = torch.tensor([tokens])
    logits = model(ids).logits[0, :-1].float()
    return np.asarray(torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[:, 0])


def hugging_face_name(module: str) -> str:
    """blk.3.ffn_down -> model.layers.3.mlp.down_proj, written out here independently of the client."""
    _, layer, kind = module.split(".")
    places = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    return f"model.layers.{layer}.{places[kind]}"
