"""Which adapters and which control vector an engine uses now, and what of a text they act on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine import adapter_loading
from edge_runtime.engine.activation import activation_start, last_header
from edge_runtime.engine.adapter_loading import Adapter
from edge_runtime.engine.contexts import Context, Segment, Weights
from edge_runtime.engine.vocabulary import Vocabulary
from edge_runtime.models.catalogue import ModelFile
from protocol.errors import PenchantError

Activation = Literal["always", "answer"]


class WeightsInUse:
    """The loaded adapters of a model, and those that are set; contexts follow when they next evaluate something."""

    def __init__(self, model: ModelFile, handle: Any, vocabulary: Vocabulary) -> None:
        self._model, self._handle, self._vocabulary = model, handle, vocabulary
        self._loaded: dict[str, Adapter] = {}
        self._base = self._weights = Weights(model.sha256)
        self._header: tuple[int, ...] | None = None  # adapters act from here on; None: on every token

    @property
    def active_adapters(self) -> tuple[tuple[Adapter, float], ...]:
        """As `Engine.active_adapters`."""
        return self._weights.adapters

    # ---- what is loaded

    def load(self, data: bytes, sha256: str) -> Adapter:
        """As `Engine.load_adapter`."""
        adapter_loading.check_digest(data, sha256)
        if sha256 not in self._loaded:
            self._loaded[sha256] = adapter_loading.load(self._handle, data, sha256, self._model)
        return self._loaded[sha256]

    def unload(self, adapter: Adapter, contexts: Sequence[Context]) -> None:
        """Free an adapter that is not in use, after `contexts` have let go of it."""
        if any(active is adapter for active, _ in self._weights.adapters):
            raise PenchantError("this adapter is in use: call use_adapters without it first")
        if self._loaded.pop(adapter.sha256, None) is not None:
            for context in contexts:
                context.release(adapter)
            llama.llama_adapter_lora_free(adapter.pointer)

    def free(self) -> None:
        """Free all adapters; no context may be left."""
        for adapter in self._loaded.values():
            llama.llama_adapter_lora_free(adapter.pointer)
        self._loaded = {}

    def check_loaded(self, weights: Weights) -> None:
        """Raises PenchantError if an adapter of `weights` is not, or no longer, in this engine."""
        if any(self._loaded.get(adapter.sha256) is not adapter for adapter, _ in weights.adapters):
            raise PenchantError("this adapter is not loaded in this engine: call load_adapter first")

    # ---- what is in use

    def use_adapters(self, pairs: Sequence[tuple[Adapter, float]], activation: Activation) -> None:
        """As `Engine.use_adapters`."""
        weights = Weights(
            self._model.sha256,
            tuple((adapter, float(scale)) for adapter, scale in pairs if scale != 0),
            self._base.control,
        )
        self.check_loaded(weights)
        if not all(math.isfinite(scale) for _, scale in weights.adapters):
            raise PenchantError("an adapter's scale must be a finite number")
        if len({adapter.sha256 for adapter, _ in weights.adapters}) != len(weights.adapters):
            raise PenchantError("an adapter is given twice: add its scales")
        headers = {adapter.metadata.invocation_tokens for adapter, _ in weights.adapters}
        if len(headers) > 1:
            raise PenchantError("adapters that begin to act at different places cannot be mixed: use one at a time")
        header = next(iter(headers), ())
        if headers and activation == "answer":
            header = header or self._vocabulary.answer_header
        self._weights, self._header = weights, header or None

    def use_control_vector(self, vector: NDArray[np.float32] | None) -> None:
        """As `Engine.use_control_vector`."""
        control = None
        if vector is not None:
            control = np.array(vector, dtype=np.float32, order="C")
            shape = (llama.llama_model_n_layer(self._handle) - 1, llama.llama_model_n_embd(self._handle))
            if control.shape != shape or not np.isfinite(control).all():
                raise PenchantError(f"a control vector of this model must be finite numbers of shape {shape}")
        self._base = Weights(self._model.sha256, (), control)
        self._weights = Weights(self._model.sha256, self._weights.adapters, control)

    # ---- what they act on

    def segments(self, tokens: Sequence[int]) -> list[Segment]:
        """`tokens` as what the base model reads and what the adapters read."""
        return self._split(tokens, self._start(tokens))

    def prefix_segments(self, tokens: Sequence[int]) -> list[Segment]:
        """As `segments`, but a beginning without a header is one that no adapter for answers touches."""
        if self._header is not None and last_header(tokens, self._header) is None:
            return self._split(tokens, len(tokens))
        return self.segments(tokens)

    def split_segments(self, prefix: Sequence[int], rest: Sequence[int]) -> tuple[list[Segment], list[Segment]]:
        """The segments of one text in two parts: the place where adapters begin does not depend on the split."""
        start = self._start([*prefix, *rest])
        return self._split(prefix, start), self._split(rest, start - len(prefix))

    def _start(self, tokens: Sequence[int]) -> int:
        """Index of the first token of `tokens` that the adapters act on."""
        return 0 if self._header is None else activation_start(tokens, self._header)

    def _split(self, tokens: Sequence[int], start: int) -> list[Segment]:
        text = np.asarray(tokens, dtype=np.int32)
        cut = min(max(start, 0), len(text))
        parts = ((self._base, text[:cut]), (self._weights, text[cut:]))
        return [Segment(weights, part) for weights, part in parts if len(part)]
