"""What the engine benchmarks share: the default model, the random adapters of a fleet's shape, a long prompt."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import numpy as np

from edge_runtime.adapters.adapter_file import AdapterMetadata, write_adapter
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import ModelFile, find_model, read_model_header, read_model_shape

CONTEXT_TOKENS: Final = 2048
THREADS: Final = 1
# The adapter of a default fleet: rank 8 on the output maps of the top 8 layers.
ADAPTED_LAYERS, RANK = 8, 8
_TEXT = (
    "The harbour was quiet in the morning, and the boats lay side by side under a thin fog that smelled of salt. "
    "Nobody spoke much; the nets were mended, the coffee was hot, and the day began as days begin by the sea. "
)


def open_engine(model: ModelFile | None = None) -> Engine:
    """The default model with one thread."""
    return Engine.open(model or find_model(), context_tokens=CONTEXT_TOKENS, threads=THREADS)


def random_adapter(model: ModelFile, seed: int) -> tuple[bytes, str]:
    """(bytes, sha256) of an adapter of a default fleet's shape with small random factors."""
    shape = read_model_shape(model.path)
    inner = read_model_header(model.path).metadata[f"{shape.architecture}.feed_forward_length"]
    widths = {"attn_output": shape.width, "ffn_down": int(inner)}
    generator = np.random.default_rng(seed)
    factors = {
        f"blk.{layer}.{kind}": (
            generator.normal(0.0, 0.02, (RANK, width)).astype(np.float32),
            generator.normal(0.0, 0.02, (shape.width, RANK)).astype(np.float32),
        )
        for layer in range(shape.layers - ADAPTED_LAYERS, shape.layers)
        for kind, width in widths.items()
    }
    data = write_adapter(
        factors,
        alpha=float(RANK),
        metadata=AdapterMetadata(base_sha256=model.sha256, frame_sha256=""),
        architecture=shape.architecture,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
    )
    return data, sha256(data).hexdigest()


def long_text(engine: Engine, tokens: int) -> list[int]:
    """Exactly `tokens` tokens of plain English."""
    ids = engine.tokenise(_TEXT * (tokens // 30 + 1), special=False)
    return ids[:tokens]
