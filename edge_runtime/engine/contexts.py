"""A llama.cpp context, what is added to the base model in it, and the text that it evaluates as segments.

A cached key or value depends on every token before it *and on the weights each of them was evaluated with*. So a
cell's identity here is an *entry*, the token together with a digest of the weights, and what is cached is reused
only as far as entries agree: a cache can never be met under another adapter, scale, control vector or soft prefix.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine import llama_bindings
from edge_runtime.engine.aborting import Aborted, AbortFlag
from edge_runtime.engine.adapter_loading import Adapter
from protocol.errors import PenchantError

# Tokens per decode. More are hardly faster on a processor, and each that is scored costs 2 x 196 kB of logits
# (49,152 words).
BATCH_TOKENS = 256
_CELL_MULTIPLE = 256  # llama.cpp rounds a context's cells up to this
_TOKEN_BITS = 32


@dataclass(frozen=True, eq=False)
class Weights:
    """What is added to the base model `base_sha256`: adapters with scales, and a control vector
    (layers - 1, n_embd).
    """

    base_sha256: str
    adapters: tuple[tuple[Adapter, float], ...] = ()
    control: NDArray[np.float32] | None = None

    @functools.cached_property
    def identity(self) -> int:
        """128 bits that differ wherever the weights do. The order of adapters counts: it changes sums."""
        digest = hashlib.sha256(self.base_sha256.encode())
        for adapter, scale in self.adapters:
            digest.update(f";{adapter.sha256}*{scale.hex()}".encode())
        if self.control is not None:
            digest.update(b";control")
            digest.update(np.ascontiguousarray(self.control).tobytes())
        return int.from_bytes(digest.digest()[:16])


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive tokens evaluated with the same weights; or, with `rows` (n, n_embd), vectors in place of tokens."""

    weights: Weights
    tokens: NDArray[np.int32]
    rows: NDArray[np.float32] | None = None

    @functools.cached_property
    def entries(self) -> list[int]:
        """One number per token that stands for the token (or the row) and its weights."""
        identity = self.weights.identity
        if self.rows is not None:
            start = identity.to_bytes(16)
            contents = (hashlib.sha256(start + row.tobytes()).digest() for row in self.rows)
            return [int.from_bytes(content[:16]) << _TOKEN_BITS for content in contents]
        high = identity << _TOKEN_BITS
        return [high | token for token in self.tokens.tolist()]


def common_length(held: Sequence[int], wanted: Sequence[int]) -> int:
    """How many first entries two texts share."""
    for index, (one, other) in enumerate(zip(held, wanted, strict=False)):
        if one != other:
            return index
    return min(len(held), len(wanted))


def same_weights(entry: int, other: int) -> bool:
    """Whether two entries were evaluated with the same weights."""
    return entry >> _TOKEN_BITS == other >> _TOKEN_BITS


def after(segments: Sequence[Segment], count: int) -> Iterator[Segment]:
    """What of `segments` comes after their first `count` entries."""
    for segment in segments:
        size = len(segment.tokens)
        if count < size:
            rows = None if segment.rows is None else segment.rows[count:]
            yield Segment(segment.weights, segment.tokens[count:], rows) if count else segment
        count = max(0, count - size)


class Context:
    """A context of one model. `cells` is the room for keys and values that its `sequences` share.

    `flash` attention is for generation: reading is 2 to 29 % faster with it and writing 8 to 10 % in chats of usual
    length (2 % slower behind 1,000 tokens, 13 % behind 3,000). Scores could not be bit-stable with it (`scoring.py`).
    """

    def __init__(
        self, model_handle: Any, *, cells: int, sequences: int, threads: int, flag: AbortFlag, flash: bool
    ) -> None:
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = cells
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_seq_max = sequences
        parameters.kv_unified = True  # otherwise the cells are divided by the number of sequences
        parameters.flash_attn_type = (
            llama.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.no_perf = True
        parameters.abort_callback, parameters.abort_callback_data = flag.callback, flag.data
        self.pointer = llama.llama_init_from_model(model_handle, parameters)
        if not self.pointer:
            reason = llama_bindings.last_error()
            raise PenchantError(f"llama.cpp cannot make a context of {cells} tokens{reason}: try a smaller context")
        self.memory = llama.llama_get_memory(self.pointer)
        self.vocabulary_size = int(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model_handle)))
        self._flag = flag
        self._batch = llama_bindings.TokenBatch(BATCH_TOKENS)
        self._adapters: tuple[tuple[Adapter, float], ...] = ()
        self._control: NDArray[np.float32] | None = None

    def close(self) -> None:
        """Free the context; adapters are unset before anybody frees them."""
        if self.pointer:
            llama.llama_set_adapters_lora(self.pointer, None, 0, None)
            llama.llama_free(self.pointer)
        self.pointer = None

    def run(self, segment: Segment, position: int, sequence: int, wanted: NDArray[np.bool_] | bool) -> None:
        """Evaluate a segment of at most BATCH_TOKENS at `position` of `sequence`; `wanted` marks rows of output.

        Raises Aborted, CellsFull, or PenchantError. After any of them the caller removes what lies at and behind
        `position`.
        """
        self._use(segment.weights)
        positions = np.arange(position, position + len(segment.tokens), dtype=np.int32)
        if segment.rows is None:
            self._batch.fill(segment.tokens, positions, sequence, wanted)
            batch = self._batch.structure
        else:
            batch = self._batch.fill_embeddings(
                np.ascontiguousarray(segment.rows), positions, sequence, np.broadcast_to(wanted, positions.shape)
            )
        self._decode(batch)

    def run_abreast(self, segment: Segment, positions: NDArray[np.int32], sequences: NDArray[np.int32]) -> None:
        """Evaluate token i of a segment (n,) at `positions[i]` of `sequences[i]`; every one gives an output. Raises as
        `run` does.
        """
        self._use(segment.weights)
        self._batch.fill(segment.tokens, positions, sequences, True)
        self._decode(self._batch.structure)

    def _decode(self, batch: Any) -> None:
        self._flag.check()
        code = llama.llama_decode(self.pointer, batch)
        if code == 0:
            return
        if code == 1:
            raise CellsFull(
                "the text does not fit in the model's context: shorten it or open the engine with a larger one"
            )
        if code == 2:
            raise Aborted
        raise PenchantError(f"llama.cpp could not evaluate the text (code {code}){llama_bindings.last_error()}")

    def _use(self, weights: Weights) -> None:
        """Set the weights where they differ; llama.cpp plans its graph anew then, a few milliseconds."""
        if weights.adapters != self._adapters:
            count = len(weights.adapters)
            pointers = (llama.llama_adapter_lora_p_ctypes * count)(*(one.pointer for one, _ in weights.adapters))
            scales = (ctypes.c_float * count)(*(scale for _, scale in weights.adapters))
            if llama.llama_set_adapters_lora(self.pointer, pointers, count, scales) != 0:
                raise PenchantError(f"llama.cpp could not set the adapters{llama_bindings.last_error()}")
            self._adapters = weights.adapters
        if weights.control is not self._control:
            self._set_control(weights.control)

    def _set_control(self, control: NDArray[np.float32] | None) -> None:
        if control is None:
            code = llama.llama_set_adapter_cvec(self.pointer, None, 0, 0, 0, 0)
        else:
            layers, width = control.shape
            pointer = control.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            code = llama.llama_set_adapter_cvec(self.pointer, pointer, control.size, width, 1, layers)
        if code != 0:
            raise PenchantError(f"llama.cpp could not set the control vector{llama_bindings.last_error()}")
        self._control = control

    def release(self, adapter: Adapter) -> None:
        """Let go of an adapter that is about to be freed."""
        if any(one is adapter for one, _ in self._adapters):
            llama.llama_set_adapters_lora(self.pointer, None, 0, None)
            self._adapters = ()

    def logits(self, rows: int) -> NDArray[np.float32]:
        """The last run's first outputs, (rows, vocabulary): a view that the next run overwrites."""
        return llama_bindings.logits_rows(self.pointer, rows, self.vocabulary_size)

    def keep(self, sequence: int, count: int) -> bool:
        """Remove the cells of `sequence` from position `count` on; whether llama.cpp could."""
        return bool(llama.llama_memory_seq_rm(self.memory, sequence, count, -1))


class CellsFull(PenchantError):  # noqa: N818  (the name says what happened)
    """No cell is free for another token."""


def whole_cells(tokens: int) -> int:
    """The cells that llama.cpp makes for a context of `tokens`."""
    return -(-tokens // _CELL_MULTIPLE) * _CELL_MULTIPLE
